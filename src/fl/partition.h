/* partition.h - who owns which sample: how a data set is dealt to clients.
 *
 * A member of the family is one function in partition.c and one row in its table.  All
 * are deterministic in the seed, give every sample to exactly one client, and leave no
 * client empty: they refuse what would. */
#ifndef FL_PARTITION_H
#define FL_PARTITION_H

#include "base/base.h"

/* What is dealt: n samples with a class each (label; NULL: one class) and, for natural
 * splits, a key each (the writer, the hospital). */
typedef struct {
    size_t n;
    const uint32_t *label; /* (n) below n_classes */
    uint32_t n_classes;
    const uint32_t *key; /* (n), or NULL */
} partition_data;

/* Client c owns index[first[c]] .. index[first[c + 1]), ascending. */
typedef struct {
    uint32_t n_clients;
    size_t *first;   /* (n_clients + 1) */
    uint32_t *index; /* (n) */
} partition;

typedef struct {
    const char *name, *summary, *source;
    const param *params;
    /* owner[i] = client of sample i. scratch: partition_scratch_bytes. */
    om_status (*assign)(const double *p, const partition_data *d, uint32_t n_clients, rng r,
                        uint32_t *owner, arena scratch, om_err *err);
} partition_rule;

extern const partition_rule *const partition_rules[]; /* ends with NULL */
om_status partition_need(str name, const partition_rule **out, om_err *err);

/* Deal.  Fails, naming the client and what to change, when one would be left empty. */
om_status partition_open(const partition_rule *rule, const double *p,
                         const partition_data *d, uint32_t n_clients, uint64_t seed,
                         partition *out, om_err *err);
void partition_close(partition *p);

#endif
