/* kern.h - the kernel table: number crunching on raw pointers, no tensors.
 *
 * One struct of function pointers, filled once from the C references and then
 * overwritten by a ladder per instruction set, narrowest first.  OCTOMIL_CPU_MASK (a
 * comma list such as "avx512,amx" of sets to switch off) and the `mask` argument let a
 * user or a test forbid sets.  The reference stays forever and is what the laws
 * compare with.  All matrices are row-major; ld is in elements. */
#ifndef KERN_KERN_H
#define KERN_KERN_H

#include "base/base.h"
#include "kern/blocks.h"
#include "os/os.h"

enum {                        /* instruction sets, one bit each */
       CPU_AVX2 = 1u << 0,    /* with FMA and F16C            */
       CPU_AVXVNNI = 1u << 1, /* 256-bit int8 dot products    */
       CPU_AVX512 = 1u << 2,  /* F, BW, VL, DQ, CD            */
       CPU_VNNI = 1u << 3,    /* AVX-512 VNNI + VBMI          */
       CPU_AMX = 1u << 4,     /* tiles, bf16 and int8, granted by the kernel */
       CPU_NEON = 1u << 8,
       CPU_DOTPROD = 1u << 9,
       CPU_I8MM = 1u << 10,
};

typedef struct kern kern;
struct kern {
    unsigned flags; /* sets in use */

    /* ---- vectors of n floats; x and y may be equal, else must not overlap ---- */
    float (*dot)(const float *x, const float *y, size_t n);
    void (*axpy)(float *y, float a, const float *x, size_t n);       /* y += a x     */
    /* y += sum_s a[s] x_s over 8 rows x_s of n, at steps of ld */
    void (*axpy8)(float *y, const float *a, const float *x, size_t ld, size_t n);
    void (*scale)(float *y, float a, size_t n);                      /* y *= a       */
    void (*add)(float *y, const float *a, const float *b, size_t n); /* y = a + b    */
    void (*mul)(float *y, const float *a, const float *b, size_t n); /* y = a * b    */
    double (*sum)(const float *x, size_t n);
    double (*sumsq)(const float *x, size_t n);
    float (*max)(const float *x, size_t n); /* -inf for n=0 */
    /* y = exp(x - shift), returns the sum of y in double. exp is within 2 ulp. */
    double (*expsum)(float *y, const float *x, float shift, size_t n);
    /* y = silu(gate) up */
    void (*silu_mul)(float *y, const float *gate, const float *up, size_t n);
    /* dgate += dy up silu'(gate); dup += dy silu(gate) */
    void (*silu_mul_back)(float *dgate, float *dup, const float *dy, const float *gate,
                          const float *up, size_t n);
    void (*gelu)(float *y, const float *x, size_t n); /* tanh form    */
    void (*gelu_back)(float *dx, const float *dy, const float *x, size_t n); /* dx +=   */
    /* y = x * w / sqrt(mean(x^2) + eps); returns 1/sqrt(..) for the backward. */
    float (*rmsnorm)(float *y, const float *x, const float *w, float eps, size_t n);
    /* AdamW step t >= 1 (Loshchilov and Hutter 2019); c1 = 1-b1^t, c2 = 1-b2^t. */
    void (*adamw)(float *p, float *m, float *v, const float *g, size_t n, float lr,
                  float b1, float b2, float eps, float weight_decay, float c1, float c2);
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n);

    /* ---- packed types: see kern/gemm.h and kern/qmat.h for the drivers -------- */
    const struct gemm_kernels *gemm; /* f32 micro-kernels, owned by gemm.c      */
    const struct qmat_kernels *qmat; /* int8-dot kernels per type, qmat.c       */
    const struct attn_kernels *attn; /* products with cached keys and values, attn.h */
};

unsigned kern_cpu_flags(void); /* what this CPU and kernel offer */
/* mask = 0: everything but OCTOMIL_CPU_MASK; else only the sets in `mask`. */
void kern_init(kern *k, unsigned mask);
void kern_flag_names(unsigned flags, char *out, size_t cap); /* "avx2 avx512 vnni" */

/* ---- f32 matrix product (gemm.c) ---------------------------------------------------
 *
 *     C (m,n) = beta C + alpha op(A) op(B)        op(X) = X or X transposed
 *
 * B may be of any dtype that unpacks: rows of B as stored (n rows of k when
 * transposed, k rows of n otherwise) are unpacked panel by panel while packing, so a
 * quantized weight is multiplied in f32 without ever existing in f32.
 * beta == 0 overwrites C without reading it (NaN in C does not survive).
 * The result has the same bits for any number of threads: work is cut over m and n,
 * never over k.  Row i of the result does not depend on m (a batch and its rows one by
 * one may still differ in the last bits; where that matters use the same m).
 * Thin shapes (m, n or k <= 16, the LoRA case) and matrix-vector take their own paths.
 *
 * Precision.  Products are summed in f32.  Where the CPU has bf16 tiles, factors are
 * split into bf16 parts, and the relative error of one product is, by `precision`,
 *     GEMM_F32    below 2^-23: three parts, as good as f32; the default
 *     GEMM_FAST   below 2^-15 (2^-18 is typical): two parts, up to twice as fast; six
 *                 transformer layers end within 1e-5 of f32
 *     GEMM_BF16   below 2^-7 (2^-9 is typical): one part, each factor rounded to bf16; for
 *                 products by quantized weights, which are further from their originals
 *                 (8 bits in a block of 32: 2^-8 of its largest), and whose integer
 *                 products round the other factor to 8 bits too
 * On other CPUs all are plain f32.  An operand with an infinity, a NaN or a magnitude
 * over 3.38e38 is always multiplied in plain f32, so infinities and NaN come out as f32
 * would have them; finite operands whose products overflow give infinity or NaN.  Parts
 * under 2^-126 count as zero.
 */
typedef enum { GEMM_F32, GEMM_FAST, GEMM_BF16 } gemm_precision;

typedef struct {
    size_t m, n, k;
    const float *a;
    size_t lda;
    bool a_t; /* A is stored (k,m) */
    const void *b;
    size_t ldb; /* in elements; a multiple of the block for packed types */
    dtype b_type;
    bool b_t; /* B is stored (n,k): y = x W^T, the usual linear layer */
    float *c;
    size_t ldc;
    float alpha, beta;
    gemm_precision precision;
} gemm_args;

/* Scratch bytes gemm() needs for any product up to these sizes with this pool. */
size_t gemm_bytes(const kern *k, size_t m, size_t n, size_t kk, const pool *p);
void gemm(const kern *k, pool *p, const gemm_args *g, arena scratch);

/* ---- quantized matrix product for inference (qmat.c) --------------------------------
 *
 *     Y (m,n) = X (m,k) W^T,  W stored as n rows of dtype t
 *
 * X is quantized per block to 8 bits (Q8_0 or Q8_K, as the type wants) and multiplied
 * in integers; plain types F32, F16, BF16 are multiplied as such.  m = 1 streams W
 * once at memory speed.  Same bits for any number of threads. */
bool qmat_supported(dtype t);
size_t qmat_bytes(const kern *k, dtype t, size_t m, size_t n, size_t kk, const pool *p);
void qmat(const kern *k, pool *p, dtype t, const void *w, const float *x, size_t ldx,
          float *y, size_t ldy, size_t m, size_t n, size_t kk, arena scratch);
/* Few rows by several matrices: rows [beg, end) of X and Y belong to matrix w, n x k, of one
 * of `count` parts; at most QMAT_STACK_ROWS rows in all, and no part without.  The same
 * bits as a qmat for each; scratch of qmat_stack_bytes for all m rows. */
enum { QMAT_STACK_ROWS = 64 };
typedef struct {
    const void *w;
    size_t beg, end;
} qmat_part;
size_t qmat_stack_bytes(const kern *k, dtype t, size_t m, size_t n, size_t kk, const pool *p);
void qmat_stack(const kern *k, pool *p, dtype t, const qmat_part *part, uint32_t count,
                const float *x, float *y, size_t n, size_t kk, arena scratch);

#endif
