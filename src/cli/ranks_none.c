/* ranks_none.c - octomil works alone; see ranks.h. */
#include "cli/ranks.h"

sim_ranks *ranks_start(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    return NULL;
}

void ranks_end(int status) { (void)status; }
