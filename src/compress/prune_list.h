/* prune_list.h - every method of pruning, simplest first. */
#define PRUNE_METHOD_LIST(X)                                                               \
    X(magnitude)                                                                           \
    X(wanda)                                                                               \
    X(ria)                                                                                 \
    X(symmetric_wanda)                                                                     \
    X(sparsegpt)                                                                           \
    X(thanos)                                                                              \
    X(forward_only)                                                                        \
    X(depth)
