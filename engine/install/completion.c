/* Completions for shells: the commands, each one's options, and what may stand behind an option. */
#include "engine/install/pages.h"

#include <string.h>

enum { WORDS = 128 };

/* ---- bash ---- */

static const char bash_head[] =
    "# bash completion for vitrun\n"
    "_vitrun()\n"
    "{\n"
    "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
    "    local command=run named= options= words= kind=none\n"
    "    COMPREPLY=()\n"
    "    # --name=value comes as three words\n"
    "    if [[ $cur == = ]]; then\n"
    "        cur=\n"
    "    elif [[ $prev == = ]]; then\n"
    "        prev=${COMP_WORDS[COMP_CWORD - 2]}\n"
    "    fi\n";

static const char bash_tail[] =
    "    if [[ $kind == words ]]; then\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
    "    elif [[ $kind == folders ]]; then\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")\n"
    "    elif [[ $kind == anything ]]; then\n"
    "        return\n"
    "    elif [[ $kind == none && $cur == -* ]]; then\n"
    "        mapfile -t COMPREPLY < <(compgen -W \"$options\" -- \"$cur\")\n"
    "    else\n"
    "        compopt -o filenames 2>/dev/null\n"
    "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
    "        if [[ $kind == none && $COMP_CWORD -eq 1 ]]; then\n"
    "            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W \"$commands\" -- "
    "\"$cur\")\n"
    "        fi\n"
    "    fi\n"
    "}\n"
    "complete -F _vitrun vitrun\n";

static void bash_values(const cli_command *c, FILE *f)
{
    static const char *const kinds[] = {
        [PAGES_FILES] = "files", [PAGES_FOLDERS] = "folders", [PAGES_ANYTHING] = "anything"};
    char words[WORDS];
    for (const cli_option *o = cli_option_table; o->name; o++) {
        pages_value value = pages_value_of(o, words, sizeof words);
        if (!(o->commands & c->bit) || value == PAGES_NOTHING)
            continue;
        if (value == PAGES_WORDS)
            fprintf(f, "        --%s) kind=words words='%s' ;;\n", o->name, words);
        else
            fprintf(f, "        --%s) kind=%s ;;\n", o->name, kinds[value]);
    }
}

void pages_bash(FILE *f)
{
    fputs(bash_head, f);
    fputs("    local commands='", f);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(f, "%s%s", c == cli_commands ? "" : " ", c->name);
    fputs("'\n"
          "    if [[ $COMP_CWORD -gt 1 && \" $commands \" == *\" ${COMP_WORDS[1]} \"* ]]; then\n"
          "        command=${COMP_WORDS[1]}\n"
          "    fi\n"
          "    case $command in\n",
          f);
    for (const cli_command *c = cli_commands; c->name; c++) {
        fprintf(f, "    %s)\n        options='", c->name);
        for (const cli_option *o = cli_option_table; o->name; o++)
            if (o->commands & c->bit)
                fprintf(f, "--%s ", o->name);
        fputs("'\n        case $prev in\n", f);
        bash_values(c, f);
        fputs("        esac\n        ;;\n", f);
    }
    fputs("    esac\n", f);
    fputs(bash_tail, f);
}

/* ---- zsh and fish: with explanations ---- */

/* The first line of a help text, or as much as is a sentence of its own, quoted as the shell wants.
 */
static void explain(const char *text, const char *escaped, FILE *f)
{
    for (; *text && *text != '\n'; text++) {
        if (strchr(escaped, *text))
            fputc('\\', f);
        if (*text == '\'')
            fputs("'\\''", f);
        else
            fputc(*text, f);
    }
}

static void zsh_option(const cli_option *o, FILE *f)
{
    char words[WORDS];
    fprintf(f, " \\\n            '%s--%s", o->kind == OPT_LIST ? "*" : "", o->name);
    pages_value value = pages_value_of(o, words, sizeof words);
    fputs(value == PAGES_NOTHING ? "[" : "=[", f);
    explain(o->help, "[]:\\", f);
    fputc(']', f);
    if (value != PAGES_NOTHING)
        fprintf(f, ":%s:", o->name);
    if (value == PAGES_WORDS)
        fprintf(f, "(%s)", words);
    else if (value == PAGES_FILES || value == PAGES_FOLDERS)
        fputs(value == PAGES_FILES ? "_files" : "_files -/", f);
    fputc('\'', f);
}

void pages_zsh(FILE *f)
{
    fputs("#compdef vitrun\n"
          "_vitrun()\n"
          "{\n"
          "    local command=run\n"
          "    local -a commands=(\n",
          f);
    for (const cli_command *c = cli_commands; c->name; c++) {
        fprintf(f, "        '%s:", c->name);
        explain(c->line, ":\\", f);
        fputs("'\n", f);
    }
    fputs("    )\n"
          "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
          "        _describe command commands\n"
          "        _files\n"
          "        return\n"
          "    fi\n"
          "    if [[ -n ${(M)commands:#${words[2]}:*} ]]; then\n"
          "        command=$words[2]\n"
          "        shift words\n"
          "        (( CURRENT-- ))\n"
          "    fi\n"
          "    case $command in\n",
          f);
    for (const cli_command *c = cli_commands; c->name; c++) {
        fprintf(f, "    (%s)\n        _arguments", c->name);
        for (const cli_option *o = cli_option_table; o->name; o++)
            if (o->commands & c->bit)
                zsh_option(o, f);
        fputs(c->arguments ? " \\\n            '*:image:_files'\n        ;;\n" : "\n        ;;\n",
              f);
    }
    fputs("    esac\n}\n_vitrun \"$@\"\n", f);
}

static void fish_option(const cli_command *c, const cli_option *o, FILE *f)
{
    char words[WORDS];
    fprintf(f, "complete -c vitrun -n '__vitrun_command %s' -l %s", c->name, o->name);
    switch (pages_value_of(o, words, sizeof words)) {
    case PAGES_NOTHING:
        break;
    case PAGES_WORDS:
        fprintf(f, " -x -a '%s'", words);
        break;
    case PAGES_FILES:
        fputs(" -r -F", f);
        break;
    case PAGES_FOLDERS:
        fputs(" -x -a '(__fish_complete_directories)'", f);
        break;
    case PAGES_ANYTHING:
        fputs(" -x", f);
    }
    fputs(" -d '", f);
    for (const char *text = o->help; *text && *text != '\n'; text++)
        fprintf(f, strchr("'\\", *text) ? "\\%c" : "%c", *text);
    fputs("'\n", f);
}

void pages_fish(FILE *f)
{
    fputs("# fish completion for vitrun\n"
          "function __vitrun_command # the command on the line is $argv[1]\n"
          "    set -l words (commandline -opc)\n"
          "    set -l command run\n"
          "    if set -q words[2]; and contains -- $words[2]",
          f);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(f, " %s", c->name);
    fputs("\n        set command $words[2]\n"
          "    end\n"
          "    test $command = $argv[1]\n"
          "end\n",
          f);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(f, "complete -c vitrun -n 'test (count (commandline -opc)) -eq 1' -a %s -d '%s'\n",
                c->name, c->line);
    for (const cli_command *c = cli_commands; c->name; c++)
        for (const cli_option *o = cli_option_table; o->name; o++)
            if (o->commands & c->bit)
                fish_option(c, o, f);
}
