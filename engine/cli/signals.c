/* Signals and standard streams of the process: what main sets up before anything runs. Nothing needs
 * cleaning up after an interruption except while results are being written.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "engine/cli/cli.h"

static volatile sig_atomic_t pending_signal, is_protected;

static void on_signal(int number)
{
    if (!is_protected || pending_signal)
        _exit(128 + number);
    pending_signal = number;
}

void cli_protect(int on)
{
    is_protected = on;
    if (!on && pending_signal)
        _exit(128 + pending_signal);
}

void cli_catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        struct sigaction old, new = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigemptyset(&new.sa_mask);
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &new, NULL);
    }
    signal(SIGPIPE, SIG_IGN); /* write() then says EPIPE */
}

/* A closed standard stream would give its number to the next file opened, and results would be
 * written into it. */
void cli_occupy_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY); /* its use still fails */
}
