/* cmd_eval.c - how well models predict a text: perplexity; beside a reference model KL
 * divergence and agreement; size, speed and memory.  As one answer, a table or a picture.
 */
#include "cli/cli.h"

#include "cli/plot.h"
#include "llm/perplexity.h"
#include "octomil/train.h"

enum { MOST = 16 }; /* operands a command line holds */

typedef struct {
    cli *c;
    int n_models;
    llm_model *m[MOST], *reference;
    om_adapter *adapter;
    comparison result[MOST];
    perplexity_report base;
    uint64_t bytes[MOST];
    double bits[MOST]; /* per weight */
    os_map text;
    int32_t *ids;
    size_t n;
    uint64_t window, stride, most;
} job;

/* Size of what lies on disk (of a folder: of its tensors), and bits per weight. */
static om_status measure(const llm_model *m, const char *path, uint64_t *bytes,
                         double *bits, om_err *err)
{
    double total = 0, count = 0;
    for (uint32_t i = 0; i < m->n_weight; i++) {
        const nn_weight *w = &m->weight[i];
        size_t row = 0;
        dtype_row_bytes(w->type, w->cols, &row);
        total += (double)row * w->rows;
        count += (double)w->rows * w->cols;
    }
    *bits = 8 * total / count;
    *bytes = (uint64_t)total;
    return os_is_dir(path) ? OM_OK : os_file_size(path, bytes, err);
}

static om_status open_all(job *j, om_err *err)
{
    cli *c = j->c;
    const char *tok = cli_str(c, "tokenizer");
    TRY(os_map_open(cli_str(c, "text"), &j->text, err));
    for (; j->n_models < c->n_operands; j->n_models++) {
        int i = j->n_models;
        TRY(llm_open_with(c->operand[i], tok, &j->m[i], err));
        TRY(measure(j->m[i], c->operand[i], &j->bytes[i], &j->bits[i], err));
    }
    if (cli_given(c, "reference"))
        TRY(llm_open_with(cli_str(c, "reference"), tok, &j->reference, err));
    if (cli_given(c, "adapter"))
        TRY(om_adapter_open(j->m[0], cli_str(c, "adapter"), &j->adapter, err));
    str text = {(const char *)j->text.p, j->text.n};
    TRY(llm_tokenize(j->m[0], text, &j->ids, &j->n, err));
    if (j->most && j->n > j->most)
        j->n = (size_t)j->most;
    return OM_OK;
}

static om_status score(job *j, om_err *err)
{
    cli *c = j->c;
    TRY(cli_u64(c, "context", 0, 1u << 20, &j->window, err));
    TRY(cli_u64(c, "stride", 0, 1u << 20, &j->stride, err));
    TRY(cli_u64(c, "max-tokens", 0, UINT64_MAX, &j->most, err));
    if (cli_flag(c, "halves"))
        j->stride = PERPLEXITY_HALVES;
    if (!cli_str(c, "text"))
        return fail(err, OM_EARG, "--text FILE is needed: the text to predict");
    if (cli_given(c, "adapter") && c->n_operands > 1)
        return fail(err, OM_EARG, "--adapter goes with one MODEL; %d are given",
                    c->n_operands);
    TRY(open_all(j, err));
    compare_args a = {.k = &c->kernels,
                      .pool = c->pool,
                      .window = (uint32_t)j->window,
                      .stride = (uint32_t)j->stride,
                      .cancel = c->cancel,
                      .progress = cli_progress,
                      .ctx = c};
    if (j->n_models > 1 || j->reference)
        return llm_compare(j->reference, j->m, (uint32_t)j->n_models, j->ids, j->n, &a,
                           &j->base, j->result, err);
    return llm_perplexity(j->m[0], a.k, a.pool, j->ids, j->n, a.window, a.stride, a.cancel,
                          a.progress, a.ctx, &j->result[0].p, err);
}

/* ---- answers ----------------------------------------------------------------------- */

static double rate(const perplexity_report *r)
{
    return (double)r->tokens / (r->seconds + 1e-9);
}

static void put_model(const job *j, json_out *o, int i)
{
    const comparison *r = &j->result[i];
    json_put_str(o, "model", str_of(j->c->operand[i]));
    json_put_f64(o, "perplexity", r->p.perplexity);
    json_put_f64(o, "low", r->p.low);
    json_put_f64(o, "high", r->p.high);
    json_put_f64(o, "nll", r->p.nll);
    json_put_u64(o, "tokens", r->p.tokens);
    json_put_u64(o, "bytes", j->bytes[i]);
    json_put_f64(o, "bits_per_weight", j->bits[i]);
    if (j->reference) {
        json_put_f64(o, "ratio", r->ratio);
        json_put_f64(o, "ratio_low", r->ratio_low);
        json_put_f64(o, "ratio_high", r->ratio_high);
        json_put_f64(o, "kl", r->kl);
        json_put_f64(o, "kl_low", r->kl_low);
        json_put_f64(o, "kl_high", r->kl_high);
        json_put_f64(o, "kl_99", r->kl_99);
        json_put_f64(o, "same_top", r->same_top);
        json_put_f64(o, "same_top_low", r->same_top_low);
        json_put_f64(o, "same_top_high", r->same_top_high);
    }
    json_put_f64(o, "seconds", r->p.seconds);
    json_put_f64(o, "tokens_per_second", rate(&r->p));
}

static void answer_json(const job *j)
{
    json_out o = json_to(&j->c->out);
    json_open_object(&o, NULL);
    if (j->n_models == 1) {
        put_model(j, &o, 0);
    } else {
        json_open_array(&o, "models");
        for (int i = 0; i < j->n_models; i++) {
            json_open_object(&o, NULL);
            put_model(j, &o, i);
            json_shut(&o, '}');
        }
        json_shut(&o, ']');
    }
    if (j->reference)
        json_put_f64(&o, "reference_perplexity", j->base.perplexity);
    json_put_u64(&o, "peak_rss_bytes", os_peak_rss_bytes());
    json_shut(&o, '}');
    cli_print(j->c, "\n");
}

static const char *short_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void answer_table(const job *j)
{
    cli *c = j->c;
    cli_print(c, "%-28s %10s %6s  %-22s", "model", "bytes", "bits", "perplexity");
    if (j->reference)
        cli_print(c, "  %-10s %-21s %-8s %s", "ratio", "KL", "KL 99%", "same top");
    cli_print(c, "  tokens/s\n");
    for (int i = 0; i < j->n_models; i++) {
        const comparison *r = &j->result[i];
        cli_print(c, "%-28s %10llu %6.3f  %8.4f +- %-8.4f  ", short_name(c->operand[i]),
                  (unsigned long long)j->bytes[i], j->bits[i], r->p.perplexity,
                  r->p.high - r->p.perplexity);
        if (j->reference)
            cli_print(c, "  %-10.5f %.5f +- %-9.5f %-8.4f %6.2f%%", r->ratio, r->kl,
                      r->kl_high - r->kl, r->kl_99, 100 * r->same_top);
        cli_print(c, "  %8.0f\n", rate(&r->p));
    }
    if (j->reference)
        cli_print(c, "%-28s %10s %6s  %8.4f\n", short_name(cli_str(c, "reference")), "", "",
                  j->base.perplexity);
}

static void answer_one(const job *j)
{
    cli *c = j->c;
    const perplexity_report *r = &j->result[0].p;
    char memory[24], time[24], size[24];
    cli_print(c, "perplexity %.4f (95%% interval %.4f to %.4f), %.5f nats per token\n",
              r->perplexity, r->low, r->high, r->nll);
    cli_print(c, "%llu tokens in %s, %.0f tokens/s, peak memory %s\n",
              (unsigned long long)r->tokens, cli_duration(time, r->seconds), rate(r),
              cli_bytes(memory, os_peak_rss_bytes()));
    cli_print(c, "%s, %.2f bits per weight\n", cli_bytes(size, j->bytes[0]), j->bits[0]);
}

/* Size against quality, one point a model. */
static om_status draw(const job *j, const char *path, om_err *err)
{
    plot_series s[MOST];
    double x[MOST], y[MOST];
    plot p = {.title =
                  j->reference ? "KL divergence against size" : "perplexity against size",
              .x_label = "megabytes",
              .series = s,
              .n_series = (size_t)j->n_models,
              .y_label = j->reference ? "KL to the reference, nats" : "perplexity",
              .log_y = j->reference != NULL};
    for (int i = 0; i < j->n_models; i++) {
        x[i] = (double)j->bytes[i] / 1e6;
        y[i] = j->reference ? j->result[i].kl : j->result[i].p.perplexity;
        s[i] = (plot_series){short_name(j->c->operand[i]), &x[i], &y[i], 1, true};
    }
    buf svg = buf_growing(1 << 20);
    om_status st = plot_svg(&p, &svg);
    st = st == OM_OK ? os_write_file_atomic(path, svg.data, svg.len, err)
                     : fail(err, st, "eval: the picture would be over 1 MB");
    buf_free(&svg);
    return st;
}

static om_status run(cli *c, om_err *err)
{
    job j = {.c = c};
    om_status s = score(&j, err);
    cli_progress_end(c);
    if (s == OM_OK && c->json)
        answer_json(&j);
    else if (s == OM_OK && (j.n_models > 1 || j.reference))
        answer_table(&j);
    else if (s == OM_OK)
        answer_one(&j);
    if (s == OM_OK && cli_given(c, "plot"))
        s = draw(&j, cli_str(c, "plot"), err);
    om_adapter_close(j.adapter);
    for (int i = 0; i < MOST; i++)
        llm_close(j.m[i]);
    llm_close(j.reference);
    mem_free(j.ids);
    os_map_close(&j.text);
    return s;
}

static const cli_option options[] = {
    {"text", 'f', "FILE", NULL, "the text to predict (needed)", false},
    {"reference", 'r', "MODEL", NULL, "the original: adds KL divergence and agreement",
     false},
    {"plot", 0, "FILE.svg", NULL, "draw size against quality, one point a model", false},
    {"context", 'c', "N", "0", "tokens seen at once; 0: the model's, at most 512", false},
    {"stride", 0, "N", "0", "new tokens per window; 0: half the context", false},
    {"halves", 0, NULL, NULL,
     "score the second halves of disjoint windows, as "
     "llama-perplexity does",
     false},
    {"max-tokens", 'n', "N", "0", "only the first N tokens; 0: all", false},
    {"adapter", 'a', "PATH", NULL, "a LoRA adapter to use: PEFT folder or GGUF file",
     false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_eval = {
    .name = "eval",
    .summary = "perplexity of models on a text, KL divergence, size, speed",
    .operands = "MODEL...",
    .min_operands = 1,
    .max_operands = MOST,
    .options = options,
    .run = run,
    .details =
        "Windows of --context tokens slide over the text by --stride; every token is\n"
        "predicted once.  A smaller stride gives each token more to go by and costs more\n"
        "time.  The interval is what another sample of such text would give.\n\n"
        "With --reference, every model is compared with it token by token: the ratio of\n"
        "perplexities, the mean KL divergence of the predictions and the value 99 % of\n"
        "tokens stay below, and how often both would choose the same token.\n\n"
        "  octomil eval model.gguf --text story.txt --json\n"
        "  octomil eval model.gguf --reference base.gguf --text story.txt --plot "
        "sizes.svg\n",
};
