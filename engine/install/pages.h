/* What an installed vitrun has besides its files: manual pages and completions for shells, made
 * from the command line's own tables, so that they say what --help says.
 *
 * pages.c       the program: writes everything into a folder; helpers manual.c      vitrun.1 and a
 * page for each command completion.c  for bash, zsh and fish
 */
#ifndef VT_PAGES_H
#define VT_PAGES_H

#include "engine/cli/cli.h"

void pages_manual(const cli_command *command, FILE *f); /* NULL: of the program */

void pages_bash(FILE *f);
void pages_zsh(FILE *f);
void pages_fish(FILE *f);

/* What stands after an option: words to choose from, or names of files. */
typedef enum { PAGES_NOTHING, PAGES_WORDS, PAGES_FILES, PAGES_FOLDERS, PAGES_ANYTHING } pages_value;

/* For PAGES_WORDS, the words with blanks between them are in `words`. */
pages_value pages_value_of(const cli_option *option, char *words, size_t room);

#endif
