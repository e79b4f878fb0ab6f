/* config.h - the configuration file of a run: one YAML file for init, train, server and
 * simulate.
 *
 *     project: keyboard            seed: 1          rounds: 20        out: FOLDER
 *     model:     what is trained   (kind, path, adaptation, lora, hidden, l2)
 *     data:      what it learns    (format, path, labels, test_path, test_labels, ...)
 *     algorithm: name and the parameters of its row in fl/algo
 *     codec:     name and the parameters of its row in codec
 *     partition: name and the parameters of its row in fl/partition.c (simulate)
 *     clients: 100                 how many there are (simulate)
 *     cohort:    size, min, over_selection, deadline, dropout,
 *                max_update_norm
 *     async_mode, buffer_size, staleness_bound: no rounds (simulate)
 *     devices:   how fast clients compute   network: how fast they talk (simulate)
 *     server:    address, port, dir
 *     evaluate:  every, threads
 *     compression, quantization, pruning, privacy, ...: refused by name unless "none"
 *
 * Every key is a row of config_rows[] (or of the table of the named algorithm, codec or
 * partition), with type, default, range and help: parsing, the commented file that init
 * writes and the reference come from it.  Unknown keys are errors that name the line and
 * the nearest key.  libyaml is used in config.c alone.  Paths are relative to the folder
 * of the file. */
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

#include "fl/algo.h"
#include "fl/attack/attack.h"
#include "fl/partition.h"
#include "sim/pace.h"

enum { CONFIG_PATH_BYTES = 512, CONFIG_TEXT_BYTES = 128 };

enum {
    CONFIG_LLM,
    CONFIG_LOGISTIC,
    CONFIG_SOFTMAX,
    CONFIG_MLP,
    CONFIG_CNN,
    CONFIG_QUADRATIC,
    CONFIG_MULTINOMIAL
};
#define CONFIG_KINDS "llm|logistic|softmax|mlp|cnn|quadratic|multinomial"
enum { CONFIG_ASYNC_AUTO, CONFIG_ASYNC_FALSE, CONFIG_ASYNC_TRUE };
#define CONFIG_ASYNC_MODES "auto|false|true"
enum { CONFIG_LORA, CONFIG_FULL, CONFIG_MATRICES, CONFIG_PROMPT };
#define CONFIG_ADAPTATIONS "lora|full|matrices|prompt"
enum { CONFIG_MOST_RANKS = 32 };
enum { CONFIG_TEXT_FILES, CONFIG_LIBSVM, CONFIG_IDX, CONFIG_SYNTHETIC };
#define CONFIG_FORMATS "text|libsvm|idx|synthetic"

typedef struct {
    char project[CONFIG_TEXT_BYTES];
    uint64_t seed, rounds, clients;
    int async_mode; /* CONFIG_ASYNC_AUTO .. */
    uint64_t buffer_size;   /* 0: the algorithm's */
    double staleness_bound; /* below 0: the algorithm's */
    char out[CONFIG_PATH_BYTES]; /* results; "" = print only */
    struct {
        int kind;                     /* CONFIG_LLM .. */
        char path[CONFIG_PATH_BYTES]; /* llm: GGUF file or model folder */
        int adaptation;               /* CONFIG_LORA, CONFIG_FULL */
        uint64_t lora_rank;
        double lora_alpha;
        char lora_ranks[CONFIG_TEXT_BYTES]; /* "8,4,2": of clients in turn; "": lora_rank */
        int rslora;
        uint64_t prompt_tokens;
        char target_modules[CONFIG_TEXT_BYTES]; /* "q_proj,v_proj" */
        char hidden[CONFIG_TEXT_BYTES];         /* mlp: widths, "200" or "200,100" */
        double l2;                              /* logistic, softmax: (l2/2) |x|^2 */
        uint64_t dim;                           /* quadratic */
        double heterogeneity, condition;        /* quadratic */
    } model;
    struct {
        int format;
        char path[CONFIG_PATH_BYTES];
        char labels[CONFIG_PATH_BYTES]; /* idx */
        char test_path[CONFIG_PATH_BYTES];
        char test_labels[CONFIG_PATH_BYTES];
        uint64_t limit;   /* samples read; 0: all */
        uint64_t seq_len; /* text */
    } data;
    fl_recipe recipe; /* algorithm and codec, checked; see config_recipe */
    sim_pace pace;    /* simulate */
    attack_rule attack; /* simulate; row NULL: none */
    const partition_rule *partition;
    double partition_p[8];
    struct {
        uint64_t size;         /* updates that close a round */
        uint64_t min;          /* fewest that close it at the deadline */
        double over_selection; /* clients asked = size x this, rounded up */
        double deadline_seconds;
        double dropout; /* simulate: part of the asked that never answers */
        double max_update_norm; /* server: larger updates are refused; 0: none is */
    } cohort;
    struct {
        char address[CONFIG_TEXT_BYTES]; /* where the server listens, and agents call */
        uint64_t port;
        char dir[CONFIG_PATH_BYTES]; /* database and blobs */
    } server;
    uint64_t evaluate_every; /* rounds; 0: at the end only */
} config;

typedef enum {
    CONFIG_IS_TEXT,
    CONFIG_IS_PATH,
    CONFIG_IS_LIST,   /* char arrays; a list joins with ',' */
    CONFIG_IS_COUNT,  /* uint64_t */
    CONFIG_IS_NUMBER, /* double */
    CONFIG_IS_CHOICE, /* int */
    CONFIG_IS_ABSENT, /* a feature that is not there */
} config_type;

typedef struct {
    const char *key; /* "model.lora.rank" */
    config_type type;
    size_t offset, bytes; /* in config */
    const char *def;      /* as text */
    double min, max;
    const char *choices; /* IS_CHOICE; IS_ABSENT: what exists instead */
    const char *help;
} config_row;

extern const config_row config_rows[]; /* ends with a NULL key */

/* model.lora.ranks as numbers; how many there are. */
uint32_t config_ranks(const config *c, uint32_t ranks[CONFIG_MOST_RANKS]);
/* The rank of the vector of adapters: the largest of them, or model.lora.rank. */
uint32_t config_rank(const config *c);

void config_defaults(config *c);
/* YAML text; `name` is for messages. */
om_status config_parse(const char *name, const void *p, size_t n, config *out, om_err *err);
/* The same from a file (at most 1 MB), with paths made relative to its folder. */
om_status config_read(const char *path, config *out, om_err *err);
/* One key over what is there: "rounds", "model.lora.rank", "algorithm.lr", "codec.name"
 * (a name resets its parameters). */
om_status config_set(config *c, str key, str value, om_err *err);
/* What is run: the recipe with async_mode, buffer_size and staleness_bound put into it. */
om_status config_recipe(const config *c, fl_recipe *out, om_err *err);
/* The configuration as a commented YAML file that config_parse reads back. */
om_status config_print(const config *c, buf *out);
/* v with as few digits as read back to the same number; the index-th of "a|b|c". */
om_status config_put_number(buf *out, double v);
om_status config_put_choice(buf *out, const char *choices, int index);

#endif
