/* cmd_prune.c - a model with less in it: which method, what goes, how much. */
#include "cli/cli.h"

#include "compress/prune.h"

typedef struct {
    cli *c;
    llm_model *m;
    prune_args a;
    calib_args text;
    double *balance;
    os_map file; /* the calibration text */
    int32_t *ids;
} job;

static om_status read_method(job *j, om_err *err)
{
    const char *names[32] = {NULL}, *name = cli_str(j->c, "method");
    for (size_t i = 0; prune_methods[i] && i + 1 < countof(names); i++)
        names[i] = prune_methods[i]->name;
    j->a.method = prune_method_find(str_of(name));
    if (j->a.method)
        return OM_OK;
    return fail(err, OM_EARG, "--method %s is not known; did you mean %s?", name,
                nearest_name(names, str_of(name)));
}

/* "2:4": of every four two stay. */
static bool read_pattern(str s, uint32_t *stay, uint32_t *of)
{
    uint64_t a, b;
    const char *colon = memchr(s.p, ':', s.n);
    if (!colon)
        return false;
    str left = {s.p, (size_t)(colon - s.p)}, right = {colon + 1, s.n - left.n - 1};
    if (!str_u64(left, &a) || !str_u64(right, &b) || a < 1 || a >= b || b > 64)
        return false;
    *stay = (uint32_t)a;
    *of = (uint32_t)b;
    return true;
}

/* --structure, else the finest the method does. */
static om_status read_structure(job *j, om_err *err)
{
    const char *name = cli_str(j->c, "structure");
    prune_args *a = &j->a;
    if (!name) {
        while (!(a->method->structures & 1u << a->structure))
            a->structure++;
        return OM_OK;
    }
    if (read_pattern(str_of(name), &a->stay, &a->of)) {
        a->structure = PRUNE_NM;
        return OM_OK;
    }
    for (int s = 0; s < PRUNE_STRUCTURES; s++)
        if (s != PRUNE_NM && str_is(str_of(name), prune_structure_names[s])) {
            a->structure = (prune_structure)s;
            return OM_OK;
        }
    return fail(err, OM_EARG,
                "--structure %s is not known; say unstructured, channel, head, "
                "channel+head, layer, or N:M as 2:4, of every M neighbours N stay",
                name);
}

static om_status read_target(job *j, om_err *err)
{
    prune_args *a = &j->a;
    const char *block = cli_str(j->c, "block-size");
    uint64_t n, masks;
    TRY(cli_f64(j->c, "target-sparsity", 1e-6, 1 - 1e-6, &a->sparsity, err));
    if (a->structure == PRUNE_NM) {
        double by_pattern = 1 - (double)a->stay / a->of, off = a->sparsity - by_pattern;
        if (cli_given(j->c, "target-sparsity") && (off > 1e-6 || off < -1e-6))
            return fail(err, OM_EARG,
                        "--target-sparsity %g: %u of every %u that stay are a sparsity of "
                        "%g; leave it out, or choose another --structure",
                        a->sparsity, a->stay, a->of, by_pattern);
        a->sparsity = by_pattern;
    }
    if (str_is(str_of(block), "layer")) {
        a->block = SIZE_MAX;
    } else {
        TRY(cli_u64(j->c, "block-size", 1, PRUNE_BLOCK_MOST, &n, err));
        a->block = (size_t)n;
    }
    if (a->structure == PRUNE_NM && a->block != SIZE_MAX && a->block % a->of)
        return fail(err, OM_EARG, "--block-size %s is no multiple of the %u of %s", block,
                    a->of, cli_str(j->c, "structure"));
    TRY(cli_u64(j->c, "masks", 10, 100000, &masks, err));
    a->search.masks = (uint32_t)masks;
    a->search.seed = 1;
    return cli_f64(j->c, "step", 0.001, 1, &a->search.step, err);
}

static om_status read_reconstruction(job *j, om_err *err)
{
    int on = j->a.method->reconstructs;
    bool sweeps = j->a.method->sweep && !j->a.method->score;
    if (cli_given(j->c, "reconstruction"))
        TRY(cli_choice(j->c, "reconstruction", "off|on", &on, err));
    if (on && j->a.structure == PRUNE_LAYER)
        return fail(err, OM_EARG,
                    "--reconstruction on: nothing is left of a block that "
                    "goes, to make up for it");
    if (!on && sweeps)
        return fail(err, OM_EARG,
                    "--reconstruction off: %s is reconstruction; wanda is "
                    "its like without",
                    j->a.method->name);
    j->a.reconstruct = on;
    return OM_OK;
}

static om_status open_text(job *j, om_err *err)
{
    cli *c = j->c;
    uint64_t most;
    TRY(cli_u64(c, "calibration-tokens", CALIB_LEAST_TOKENS, 1u << 30, &most, err));
    j->text = (calib_args){.k = &c->kernels,
                           .pool = c->pool,
                           .cancel = c->cancel,
                           .progress = cli_progress,
                           .ctx = c};
    j->a.text = &j->text;
    if (!cli_given(c, "calibration"))
        return OM_OK;
    TRY(os_map_open(cli_str(c, "calibration"), &j->file, err));
    str text = {(const char *)j->file.p, j->file.n};
    TRY(llm_tokenize(j->m, text, &j->ids, &j->text.n, err));
    j->text.ids = j->ids;
    j->text.n = size_min(j->text.n, (size_t)most);
    if (j->text.n < CALIB_LEAST_TOKENS)
        return fail(err, OM_EARG, "--calibration %s has %zu tokens; at least %d are needed",
                    cli_str(c, "calibration"), j->text.n, CALIB_LEAST_TOKENS);
    return OM_OK;
}

static om_status spread(job *j, om_err *err)
{
    if (!cli_flag(j->c, "layer-balance"))
        return OM_OK;
    if (j->a.structure != PRUNE_UNSTRUCTURED)
        return fail(err, OM_EARG,
                    "--layer-balance needs --structure unstructured: files have one width "
                    "for all blocks, and a pattern has one sparsity");
    if (!j->text.n)
        return fail(err, OM_EARG, "--layer-balance needs --calibration FILE");
    j->balance = mem_array(j->m->n_weight, sizeof(*j->balance));
    if (!j->balance)
        return fail(err, OM_ENOMEM, "prune: no memory to balance layers");
    j->a.balance = j->balance;
    return prune_balance(j->m, &j->text, j->a.sparsity, j->balance, err);
}

static void say(job *j, const prune_report *r, uint64_t before, uint64_t after)
{
    cli *c = j->c;
    char size[24], was[24], memory[24];
    double gone = (double)r->gone / (double)r->weights;
    bool weights = (1u << j->a.structure & PRUNE_WEIGHTS) != 0;
    cli_print(c, "%s: %s (the original: %s), %s, %.2f %% of the %s gone, peak memory %s\n",
              c->operand[1], cli_bytes(size, after), cli_bytes(was, before),
              j->a.method->name, 100 * gone,
              weights ? "blocks' weights" : "model's weights",
              cli_bytes(memory, os_peak_rss_bytes()));
    if (weights)
        cli_print(c, "The file did not shrink and will not run faster: zeros are stored as "
                     "numbers.  --structure channel, head or layer makes it smaller.\n");
    else
        cli_print(c, "%u blocks, %u channels, %u heads, %u key-value heads\n", r->n_layer,
                  r->ffn, r->n_head, r->n_kv_head);
}

static om_status answer(job *j, const prune_report *r, om_err *err)
{
    cli *c = j->c;
    uint64_t before = 0, after;
    TRY(os_file_size(c->operand[1], &after, err));
    if (!os_is_dir(c->operand[0]))
        TRY(os_file_size(c->operand[0], &before, err));
    if (!c->json) {
        say(j, r, before, after);
        return OM_OK;
    }
    json_out o = json_to(&c->out);
    json_open_object(&o, NULL);
    json_put_str(&o, "file", str_of(c->operand[1]));
    json_put_str(&o, "method", str_of(j->a.method->name));
    json_put_u64(&o, "bytes", after);
    json_put_u64(&o, "bytes_before", before);
    json_put_u64(&o, "weights", r->weights);
    json_put_u64(&o, "weights_gone", r->gone);
    json_put_u64(&o, "layers", r->n_layer);
    json_put_u64(&o, "ffn", r->ffn);
    json_put_u64(&o, "heads", r->n_head);
    json_put_u64(&o, "kv_heads", r->n_kv_head);
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_print(c, "\n");
    return OM_OK;
}

static om_status work(job *j, om_err *err)
{
    prune_report r;
    TRY(read_method(j, err));
    TRY(read_structure(j, err));
    TRY(read_target(j, err));
    TRY(read_reconstruction(j, err));
    if (!str_ends(str_of(j->c->operand[1]), ".gguf"))
        return fail(err, OM_EARG, "'%s' does not end in .gguf, the one format written",
                    j->c->operand[1]);
    TRY(llm_open_with(j->c->operand[0], cli_str(j->c, "tokenizer"), &j->m, err));
    TRY(open_text(j, err));
    TRY(spread(j, err));
    TRY(prune_model(j->m, j->c->operand[1], &j->a, &r, err));
    cli_progress_end(j->c);
    return answer(j, &r, err);
}

static om_status run(cli *c, om_err *err)
{
    job j = {.c = c};
    om_status s = work(&j, err);
    cli_progress_end(c);
    llm_close(j.m);
    mem_free(j.balance);
    mem_free(j.ids);
    os_map_close(&j.file);
    return s;
}

static const cli_option options[] = {
    {"method", 'm', "NAME", "wanda",
     "magnitude, wanda, ria, symmetric-wanda, sparsegpt, thanos, forward-only, depth",
     false},
    {"target-sparsity", 's', "X", "0.5",
     "share that goes: of each matrix (unstructured), or of the whole model", false},
    {"structure", 0, "WHAT", NULL,
     "unstructured, N:M as 2:4 (two of four stay), channel, head, channel+head, layer "
     "(default: the finest the method does)",
     false},
    {"calibration", 'c', "FILE", NULL, "text to measure the model on", false},
    {"calibration-tokens", 0, "N", "65536", "at most this many of its tokens", false},
    {"layer-balance", 0, NULL, NULL, "sparsity of each matrix by what it costs there",
     false},
    {"block-size", 0, "N", "128",
     "columns treated at once by sparsegpt and thanos, or layer", false},
    {"reconstruction", 0, "on|off", NULL,
     "what stays makes up for what goes (default: on for sparsegpt and thanos)", false},
    {"masks", 0, "N", "200", "forward-only: losses measured a round", false},
    {"step", 0, "X", "0.1", "forward-only: share of the model that goes in a round", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_prune = {
    .name = "prune",
    .summary = "a model with fewer weights, channels, heads or blocks",
    .operands = "MODEL OUT.gguf",
    .min_operands = 2,
    .max_operands = 2,
    .options = options,
    .run = run,
    .details =
        "Channels, heads (with their group's queries) and layers leave the file, which is\n"
        "smaller and faster in every GGUF program.  Unstructured and N:M pruning sets\n"
        "weights to zero, which saves nothing here.  Every tensor keeps its type; prune\n"
        "before quantizing.  All methods but magnitude need --calibration, a text like "
        "what\n"
        "the model will read.  OUT appears whole or not at all.\n\n"
        "  octomil prune model.gguf small.gguf --method thanos --structure channel+head "
        "--target-sparsity 0.3 --calibration text.txt\n"
        "  octomil prune model.gguf small.gguf --method forward-only --structure layer "
        "--target-sparsity 0.25 --calibration text.txt\n"
        "  octomil prune model.gguf sparse.gguf --method magnitude --structure 2:4\n",
};
