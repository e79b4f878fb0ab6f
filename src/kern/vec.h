/* vec.h - rungs of the vector ladder: each writes its functions over those of the rung
 * below, so what an instruction set lacks keeps its narrower version. */
#ifndef KERN_VEC_H
#define KERN_VEC_H

#include "kern/kern.h"

void vec_c(kern *k);
void vec_avx2(kern *k);
void vec_avx512(kern *k);
void vec_neon(kern *k);

#endif
