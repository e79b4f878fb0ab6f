/* stop.h - for methods whose message is one gradient: whether a client is stopped when its
 * work will be too old. */
#ifndef FL_STOP_H
#define FL_STOP_H

#define FL_STOP_PARAM(at, def)                                                             \
    [at] = {"restart", def, 0, 1,                                                          \
            "a client whose gradient will be too old: finishes it, or is stopped and "     \
            "begins anew",                                                                 \
            "finish|stop"}

#endif
