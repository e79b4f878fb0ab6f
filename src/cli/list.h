/* list.h - every command, in the order `octomil --help` shows them. */
#define COMMAND_LIST(X) \
    X(run)              \
    X(serve)            \
    X(embed)            \
    X(eval)             \
    X(cascade)          \
    X(inspect)          \
    X(plan)             \
    X(convert)          \
    X(quantize)         \
    X(prune)            \
    X(bench)            \
    X(create)           \
    X(train)            \
    X(merge)            \
    X(init)             \
    X(simulate)         \
    X(privacy)          \
    X(demo)             \
    X(server)           \
    X(agent)            \
    X(reference)        \
    X(completion)
