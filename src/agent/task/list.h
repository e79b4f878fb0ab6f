/* list.h - every kind of task a device knows. */
#define TASK_LIST(X)                                                                       \
    X(quadratic)                                                                           \
    X(logistic)                                                                            \
    X(llm)
