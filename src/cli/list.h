/* list.h - every command, in the order `octomil --help` shows them. */
#define COMMAND_LIST(X) \
    X(init)             \
    X(create)           \
    X(simulate)         \
    X(reference)        \
    X(completion)
