/* ranks.h - is this process one of several that work together?  The program is linked
 * with one of two answers: ranks_none.c (octomil) or ranks_mpi.c (octomil-mpi). */
#ifndef CLI_RANKS_H
#define CLI_RANKS_H

#include "sim/sim.h"

/* NULL: alone.  Takes what is the launcher's out of the arguments. */
sim_ranks *ranks_start(int *argc, char ***argv);
/* Before exit, with its status: a failure ends the others too. */
void ranks_end(int status);

#endif
