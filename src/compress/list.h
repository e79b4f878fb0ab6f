/* list.h - every method of quantization, simplest first. */
#define QUANT_METHOD_LIST(X)                                                               \
    X(rtn)                                                                                 \
    X(kquant)                                                                              \
    X(gptq)                                                                                \
    X(higgs)
