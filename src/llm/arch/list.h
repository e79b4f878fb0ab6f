/* list.h - every family of language models, one file arch/<name>.c each. */
#define ARCH_LIST(X) \
    X(llama)         \
    X(qwen2)         \
    X(qwen3)         \
    X(mixtral)       \
    X(qwen2moe)      \
    X(qwen3moe)      \
    X(olmoe)         \
    X(gpt2)
