/* list.h - the update compressors, in the order help shows them. */
X(identity)
X(topk)
X(randk)
X(qsgd)
