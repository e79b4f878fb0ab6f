/* ranks_mpi.c - octomil-mpi: the ranks of an MPI job simulate one federation.
 *
 *     mpirun -n 4 octomil-mpi simulate CONFIG
 *
 * MPI is named in this file alone.  Rank 0 speaks: the others' standard output goes
 * nowhere, and they write no files.  All calls come from the thread that called
 * ranks_start. */
#include "cli/ranks.h"

#include <limits.h>
#include <mpi.h>
#include <stdio.h>

static om_status all_gather(void *ctx, const void *mine, void *all, const size_t *n_of,
                            om_err *err)
{
    const sim_ranks *r = ctx;
    size_t sum = 0, ranks = (size_t)r->size;
    int *count = mem_array(2 * ranks, sizeof(int));
    if (!count)
        return fail(err, OM_ENOMEM, "mpi: no memory for %zu ranks", ranks);
    for (size_t i = 0; i < ranks; i++) {
        count[ranks + i] = (int)sum;
        sum += n_of[i];
        if (sum > INT_MAX) {
            mem_free(count);
            return fail(err, OM_ELIMIT,
                        "mpi: a wave of more than %d bytes; use fewer threads or ranks, or "
                        "a codec",
                        INT_MAX);
        }
        count[i] = (int)n_of[i];
    }
    int rc = MPI_Allgatherv(mine, count[r->rank], MPI_BYTE, all, count, count + ranks,
                            MPI_BYTE, MPI_COMM_WORLD);
    mem_free(count);
    return rc == MPI_SUCCESS ? OM_OK : fail(err, OM_ENET, "mpi: an exchange failed");
}

sim_ranks *ranks_start(int *argc, char ***argv)
{
    int given;
    sim_ranks *r = mem_alloc(sizeof(*r));
    if (!r || MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS) {
        mem_free(r);
        return NULL;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &r->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &r->size);
    r->all_gather = all_gather;
    r->ctx = r;
    if (r->rank != 0 && !freopen("/dev/null", "w", stdout))
        fprintf(stderr, "octomil-mpi: rank %d cannot be quiet\n", r->rank);
    return r;
}

void ranks_end(int status)
{
    int up;
    if (MPI_Initialized(&up) != MPI_SUCCESS || !up)
        return;
    fflush(stdout);
    if (status != 0)
        MPI_Abort(MPI_COMM_WORLD, status);
    MPI_Finalize();
}
