/* vitrun: the process around cli_main, which may be called any number of times (commands.c). */
#include "engine/cli/cli.h"

int main(int argc, char **argv)
{
    cli_occupy_streams();
    cli_catch_signals();
    return cli_main(argc, argv);
}
