/* The help texts, printed from the tables of commands and options. */
#include <string.h>

#include "engine/cli/cli.h"

enum { COLUMN = 26 }; /* where the explanations start */

/* Lines of `text`, the first one continuing a line that holds `used` characters. */
static void print_lines(const char *text, int used, int column, FILE *f)
{
    while (text) {
        size_t n = strcspn(text, "\n");
        fprintf(f, "%*s%.*s\n", used < column ? column - used : 0, "", (int)n, text);
        text = text[n] ? text + n + 1 : NULL;
        used = 0;
    }
}

static void print_options(unsigned commands, FILE *f)
{
    const char *group = NULL, *printed = NULL;
    for (const cli_option *opt = cli_option_table; opt->name; opt++) {
        group = opt->group ? opt->group : group;
        if (!(opt->commands & commands))
            continue;
        if (group != printed)
            fprintf(f, "\n%s:\n", group);
        printed = group;
        int used = fprintf(f, "  --%s%s%s", opt->name, opt->argument ? " " : "",
                           opt->argument ? opt->argument : "");
        if (used > COLUMN - 2) {
            fputc('\n', f);
            used = 0;
        }
        print_lines(opt->help, used, COLUMN, f);
    }
}

static void print_usage(const char *usage, FILE *f)
{
    const char *lead = "usage: vitrun ";
    while (usage) {
        size_t n = strcspn(usage, "\n");
        fprintf(f, "%s%.*s\n", lead, (int)n, usage);
        usage = usage[n] ? usage + n + 1 : NULL;
        lead = "       vitrun ";
    }
}

const char cli_intro[] =
    "vitrun runs Vision Transformers (timm's weights) with sparse attention masks.\n";
const char cli_images_text[] =
    "An IMAGE is a PNG or JPEG file, a folder (its files in bytewise order of names,\n"
    "without those that begin with a dot and without subfolders), or - for standard\n"
    "input. Options may be written --name value or --name=value; -- ends them.\n";
const char cli_statuses[] =
    "  0    done\n"
    "  1    the machine failed: memory, --max-memory, disk, device; or check disagrees\n"
    "  2    wrong usage\n"
    "  3    a given file is absent, broken or does not fit; several images: one of them\n"
    "  130, 141, 143   interrupted, output pipe closed, terminated\n";

static void program_help(FILE *f)
{
    fputs(cli_intro, f);
    fputs("\n"
          "usage: vitrun --weights PATH [OPTION]... IMAGE...\n"
          "       vitrun COMMAND [OPTION]...\n\n"
          "Commands (vitrun COMMAND --help says more):\n",
          f);
    for (const cli_command *c = cli_commands; c->name; c++)
        fprintf(f, "  %-13s%s\n", c->name, c->line);
    fprintf(f, "\n%s", cli_images_text);
    print_options(CMD_RUN, f);
    fprintf(f,
            "\nResults go to standard output, everything else to standard error.\n"
            "Exit status:\n%s",
            cli_statuses);
}

void cli_help(const cli_command *command, FILE *f)
{
    if (!command) {
        program_help(f);
        return;
    }
    print_usage(command->usage, f);
    fprintf(f, "\n%s", command->about);
    print_options(command->bit, f);
}
