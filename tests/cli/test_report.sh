#!/bin/sh
# The report of a study: needs nothing but itself, holds every row and its command, and stands in a real
# browser: wide, narrow as a phone, and printed. Without chromium the last part is skipped.
. tests/cli/lib.sh

succeeds mask --grid 8x8 --mask 'axial_2d()' --png "$tmp/drawn"
data=$tmp/data
mkdir -p "$data/0" "$data/3"
cp "$image" "$data/0/a.png"
cp "$(find "$tmp/drawn" -name '*.png' | sort | head -n 1)" "$data/3/b.png"
cat >"$tmp/spec.json" <<'END'
{"patterns": {"<b>cross</b> & \"co\"": "axial_2d() | local_2d(distance=$d)", "near": "local_2d(distance=$d)",
              "rare": "random(sparsity=0.9)"},
 "parameters": {"d": [2, 3]}, "layers": ["all", "1"], "runs": 1}
END
succeeds sweep --weights "$vit" --data "$data" --spec "$tmp/spec.json" --out "$tmp/r"

python3 - "$tmp/r" <<'PY' || fail "the report"
import html.parser, json, os, re, sys
import xml.dom.minidom
folder = sys.argv[1]
text = open(f'{folder}/report.html', encoding='utf-8').read()
doc = json.load(open(f'{folder}/results.json'))
rows = doc['rows']
assert len(rows) == 1 + 5 * 2, len(rows)
assert not re.search(r'(src|href)\s*=\s*"(?!#)', text) and '@import' not in text and 'url(' not in text
assert '<script' not in text and '<b>' not in text
assert not re.sub(r'xmlns="[^"]*"', '', text).count('http')

class Page(html.parser.HTMLParser):
    void = {'meta', 'br', 'hr', 'img'}
    def __init__(self):
        super().__init__()
        self.open, self.rows, self.ids, self.links, self.svgs, self.pre = [], 0, set(), [], 0, []
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.rows += tag == 'tr'
        self.svgs += tag == 'svg'
        if 'id' in attrs:
            self.ids.add(attrs['id'])
        if 'href' in attrs:
            self.links.append(attrs['href'])
        if tag == 'pre':
            self.pre.append('')
        if tag not in self.void:
            self.open.append(tag)
    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
    def handle_data(self, data):
        if self.open and self.open[-1] == 'pre':
            self.pre[-1] += data
page = Page()
page.feed(text)
assert page.open == [] and page.rows == 1 + len(rows)
assert {l[1:] for l in page.links} == page.ids == {f'c{i}' for i in range(len(rows))}
for row, pre in zip(rows, page.pre):
    assert f'{doc["command"]} {row["options"]}'.strip() in pre and 'vitrun bench' in pre, pre
assert page.svgs == 3 + 2 * 5, page.svgs # three charts; matrix and query of five masks
markdown = open(f'{folder}/report.md', encoding='utf-8').read()
charts = re.findall(r'\]\(([^)]*\.svg)\)', markdown)
assert len(charts) == 3 + 5
for name in charts:
    xml.dom.minidom.parse(f'{folder}/{name}')
layers = xml.dom.minidom.parse(f'{folder}/layers.svg')
fills = [r.getAttribute('fill') for r in layers.getElementsByTagName('rect')]
assert len(fills) == 2 * len(rows) + 6
time = xml.dom.minidom.parse(f'{folder}/time.svg')
titles = [t.firstChild.data for t in time.getElementsByTagName('title')]
assert len(titles) == 1 + len(rows)
for row, title in zip(rows, titles[1:]):
    assert title.startswith(row['name'] + (', 1' if row['layers'] == '1' else '') + ':'), title
    assert f'{100 * row["top1"]:.4g} %' in title, title
for row in rows:
    assert f'{100 * row["agreement_top1"]:.2f} %' in text and f'{100 * row["agreement_top1"]:.2f} %' in markdown
assert sum(os.path.getsize(f'{folder}/{f}') for f in os.listdir(folder)) < 1 << 20
PY
ok "report: one file, every row with its command, charts that hold the rows' figures"

# One layer at a time: a chart of what each suffers, in place of one row a layer; long names are cut.
long='axial_2d() | local_2d(distance=2) | local_2d(distance=1.5, p="inf")'
succeeds sensitivity --weights "$models/deit_distilled.safetensors" --data "$data" --mask "$long" \
    --mask 'local_2d(distance=2)' --study both --runs 1 --out "$tmp/s"
python3 - "$tmp/s" "$long" <<'PY' || fail "the chart of what each layer suffers"
import json, os, sys
import xml.dom.minidom
folder, long = sys.argv[1:]
rows = json.load(open(f'{folder}/results.json'))['rows']
assert len(rows) == 1 + 2 * 2 * 3 and all(r['ms'] > 0 for r in rows)
svg = xml.dom.minidom.parse(f'{folder}/harm.svg')
cells = [r.getElementsByTagName('title')[0].firstChild.data for r in svg.getElementsByTagName('rect')]
want = [f'KL {r["kl_to_dense"]:.3g}, {100 * (rows[0]["top1"] - r["top1"]):.2f} points of top-1 lost' for r in rows[1:]]
assert sorted(cells) == sorted(want), (cells, want)
names = [t for t in svg.getElementsByTagName('text') if t.getElementsByTagName('title')]
assert [n.firstChild.firstChild.data for n in names] == [long, 'local_2d(distance=2)'] * 2
shown = [n.lastChild.data for n in names]
assert shown[1] == 'local_2d(distance=2)' and len(shown[0]) < 34 and '…' in shown[0]
assert [s.endswith(', all but it') for s in shown] == [False, False, True, True]
assert not os.path.exists(f'{folder}/layers.svg') and 'harm.svg' in open(f'{folder}/report.md').read()
PY
ok "report: what each layer suffers, where one is masked at a time"

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ]; then
    echo "SKIPPED: no chromium: the report was not looked at in a browser"
    exit 0
fi
browse()
{
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$tmp/profile" "$@" \
        >"$tmp/out" 2>"$tmp/err" || fail "the browser: $*"
}
# What the page measures of itself: wider than the window? charts drawn? names that cover each other?
cat >"$tmp/probe.html" <<'END'
<script>
const svgs = [...document.querySelectorAll('.wide > svg')];
const shown = svgs.every(s => s.getBoundingClientRect().width >= 300 && s.getBoundingClientRect().height >= 100);
let overlaps = 0, outside = 0;
for (const svg of svgs.slice(0, 2)) {
    const names = [...svg.querySelectorAll('text[paint-order]')].map(t => t.getBoundingClientRect());
    names.forEach((a, i) => names.slice(i + 1).forEach(b => {
        overlaps += a.left < b.right - 2 && b.left < a.right - 2 && a.top < b.bottom - 3 && b.top < a.bottom - 3;
    }));
    const frame = svg.getBoundingClientRect();
    for (const t of svg.querySelectorAll('text')) {
        const box = t.getBoundingClientRect();
        outside += box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
    }
}
document.title = JSON.stringify({width: innerWidth, page: document.documentElement.scrollWidth, shown, overlaps,
    outside, charts: svgs.length, font: parseFloat(getComputedStyle(document.body).fontSize)});
</script>
END
for page in r:1280 r:500 s:1280 s:500; do
    cat "$tmp/${page%:*}/report.html" "$tmp/probe.html" >"$tmp/page.html"
    browse --window-size=${page#*:},900 --dump-dom "file://$tmp/page.html"
    sed -n 's/.*<title>\({.*}\)<\/title>.*/\1/p' "$tmp/out" >"$tmp/probe.json"
    mv "$tmp/probe.json" "$tmp/out"
    holds 'd["page"] <= d["width"] and d["shown"] and d["charts"] == 3 and d["font"] >= 14'
    holds 'd["overlaps"] == 0 and d["outside"] == 0'
done
browse --print-to-pdf="$tmp/page.pdf" "file://$tmp/r/report.html"
head -c 4 "$tmp/page.pdf" | grep -q '%PDF' || fail "printing the report"
browse --window-size=1280,900 --screenshot="$tmp/page.png" "file://$tmp/r/report.html"
[ "$(wc -c <"$tmp/page.png")" -gt 20000 ] || fail "the page looks empty"
ok "report: in a browser, wide, narrow, printed"
