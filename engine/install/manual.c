/* Manual pages in man(7)'s language, from the texts that --help prints. */
#include "engine/install/pages.h"

#include <ctype.h>
#include <string.h>

/* Text of any length as one paragraph's words, or, where `lines`, line by line. */
static void put(const char *text, int lines, FILE *f)
{
    int begins = 1;
    for (; *text; text++) {
        if (begins && (*text == '.' || *text == '\''))
            fputs("\\&", f);
        begins = *text == '\n';
        if (*text == '\\')
            fputs("\\e", f);
        else if (*text == '-')
            fputs("\\-", f);
        else if (*text == '\'')
            fputs("\\(aq", f);
        else if (*text == '~')
            fputs("\\(ti", f);
        else if (*text == '^')
            fputs("\\(ha", f);
        else if (*text == '\n' && text[1] && lines)
            fputs("\n.br\n", f);
        else
            fputc(*text, f);
    }
    if (!begins)
        fputc('\n', f);
}

static void head(const char *name, const char *line, FILE *f)
{
    fputs(".\\\" Made from the texts of vitrun --help.\n.TH ", f);
    for (const char *c = name; *c; c++)
        fputc(toupper((unsigned char)*c), f);
    fprintf(f, " 1 \"\" \"vitrun %s\" \"User Commands\"\n.SH NAME\n", vitrun_version());
    put(name, 0, f);
    fputs("\\- ", f);
    put(line, 0, f);
    fputs(".SH SYNOPSIS\n", f);
}

/* "run --weights PATH\nrun ..." with the program before each line. */
static void usage(const char *lines, FILE *f)
{
    fputs(".nf\n", f);
    while (lines) {
        size_t n = strcspn(lines, "\n");
        fputs("\\fBvitrun\\fR ", f);
        char line[512];
        snprintf(line, sizeof line, "%.*s", (int)n, lines);
        put(line, 0, f);
        lines = lines[n] ? lines + n + 1 : NULL;
    }
    fputs(".fi\n", f);
}

static void options(unsigned commands, FILE *f)
{
    const char *group = NULL, *printed = NULL;
    fputs(".SH OPTIONS\n", f);
    for (const cli_option *o = cli_option_table; o->name; o++) {
        group = o->group ? o->group : group;
        if (!(o->commands & commands))
            continue;
        if (group != printed)
            fprintf(f, ".SS %s\n", group);
        printed = group;
        fputs(".TP\n\\fB\\-\\-", f);
        for (const char *c = o->name; *c; c++)
            fputs(*c == '-' ? "\\-" : (char[]){*c, '\0'}, f);
        fputs("\\fR", f);
        if (o->argument)
            fputs(" \\fI", f);
        put(o->argument ? o->argument : "\n", 0, f);
        if (o->argument)
            fputs("\\fR", f);
        put(o->help, 0, f);
    }
}

static void program(FILE *f)
{
    head("vitrun", "run Vision Transformers with sparse attention masks", f);
    usage("--weights PATH [OPTION]... IMAGE...\nCOMMAND [OPTION]...", f);
    fputs(".SH DESCRIPTION\n", f);
    put(cli_intro, 0, f);
    fputs(".PP\n", f);
    put(cli_images_text, 0, f);
    fputs(".SH COMMANDS\nEach has a page of its own: \\fBvitrun\\-run\\fR(1) and so on.\n", f);
    for (const cli_command *c = cli_commands; c->name; c++) {
        fprintf(f, ".TP\n\\fB%s\\fR\n", c->name);
        put(c->line, 0, f);
    }
    options(cli_commands[0].bit, f);
    fputs(".SH EXIT STATUS\n.nf\n", f);
    put(cli_statuses, 0, f);
    fputs(".fi\n.SH ENVIRONMENT\n.TP\n\\fBXDG_CACHE_HOME\\fR\n"
          "the folder in which vitrun/ keeps what was measured on this machine (default: "
          "\\(ti/.cache)\n"
          ".TP\n\\fBCUDA_VISIBLE_DEVICES\\fR\nthe GPUs that may be seen; empty: none\n"
          ".SH FILES\n.TP\n\\fI\\(ti/.cache/vitrun/\\fR\n"
          "what a GPU\\(aqs preparation and vitrun tune measured; may be deleted at any time\n"
          ".SH EXAMPLES\n.nf\n",
          f);
    put("vitrun --weights vit.safetensors cat.png\n"
        "vitrun --weights vit.safetensors --mask 'axial_2d() | local_2d(distance=5)' --json *.jpg\n"
        "vitrun mask --grid 14x14 --prefix 1 --mask 'local_2d(distance=3)' --png drawings\n",
        0, f);
    fputs(".fi\n.SH SEE ALSO\n\\fBvitrun\\fR(3)", f);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(f, ", \\fBvitrun\\-%s\\fR(1)", c->name);
    fputc('\n', f);
}

void pages_manual(const cli_command *command, FILE *f)
{
    if (!command) {
        program(f);
        return;
    }
    char name[64];
    snprintf(name, sizeof name, "vitrun-%s", command->name);
    head(name, command->line, f);
    usage(command->usage, f);
    fputs(".SH DESCRIPTION\n", f);
    put(command->about, 0, f);
    options(command->bit, f);
    fputs(".SH SEE ALSO\n\\fBvitrun\\fR(1)\n", f);
}
