/* The optimizers: one file and one line each. */
X(sgd)
X(momentum)
X(adamw)
