/* cmd_eval.c - perplexity of a model on a text, with speed and memory. */
#include "cli/cli.h"

#include "llm/perplexity.h"
#include "octomil/train.h"

typedef struct {
    cli *c;
    llm_model *m;
    om_adapter *adapter;
    os_map text;
    int32_t *ids;
    size_t n;
    uint64_t window, stride, most;
} job;

static om_status score(job *j, perplexity_report *r, om_err *err)
{
    cli *c = j->c;
    TRY(cli_u64(c, "context", 0, 1u << 20, &j->window, err));
    TRY(cli_u64(c, "stride", 0, 1u << 20, &j->stride, err));
    TRY(cli_u64(c, "max-tokens", 0, UINT64_MAX, &j->most, err));
    if (!cli_str(c, "text"))
        return fail(err, OM_EARG, "--text FILE is needed: the text to predict");
    TRY(os_map_open(cli_str(c, "text"), &j->text, err));
    TRY(llm_open_with(c->operand[0], cli_str(c, "tokenizer"), &j->m, err));
    if (cli_given(c, "adapter"))
        TRY(om_adapter_open(j->m, cli_str(c, "adapter"), &j->adapter, err));
    str text = {(const char *)j->text.p, j->text.n};
    TRY(llm_tokenize(j->m, text, &j->ids, &j->n, err));
    if (j->most && j->n > j->most)
        j->n = (size_t)j->most;
    return llm_perplexity(j->m, &c->kernels, c->pool, j->ids, j->n, (uint32_t)j->window,
                          (uint32_t)j->stride, c->cancel, cli_progress, c, r, err);
}

static void answer(const job *j, const perplexity_report *r)
{
    cli *c = j->c;
    char memory[24], time[24];
    double rate = (double)r->tokens / (r->seconds + 1e-9);
    uint64_t rss = os_peak_rss_bytes();
    if (!c->json) {
        cli_print(c, "perplexity %.4f (95%% interval %.4f to %.4f), %.5f nats per token\n",
                  r->perplexity, r->low, r->high, r->nll);
        cli_print(c, "%llu tokens in %s, %.0f tokens/s, peak memory %s\n",
                  (unsigned long long)r->tokens, cli_duration(time, r->seconds), rate,
                  cli_bytes(memory, rss));
        return;
    }
    json_out o = json_to(&c->out);
    json_open_object(&o, NULL);
    json_put_f64(&o, "perplexity", r->perplexity);
    json_put_f64(&o, "low", r->low);
    json_put_f64(&o, "high", r->high);
    json_put_f64(&o, "nll", r->nll);
    json_put_u64(&o, "tokens", r->tokens);
    json_put_f64(&o, "seconds", r->seconds);
    json_put_f64(&o, "tokens_per_second", rate);
    json_put_u64(&o, "peak_rss_bytes", rss);
    json_shut(&o, '}');
    cli_print(c, "\n");
}

static om_status run(cli *c, om_err *err)
{
    job j = {.c = c};
    perplexity_report r;
    om_status s = score(&j, &r, err);
    cli_progress_end(c);
    if (s == OM_OK)
        answer(&j, &r);
    om_adapter_close(j.adapter);
    llm_close(j.m);
    mem_free(j.ids);
    os_map_close(&j.text);
    return s;
}

static const cli_option options[] = {
    {"text", 'f', "FILE", NULL, "the text to predict (needed)", false},
    {"context", 'c', "N", "0", "tokens seen at once; 0: the model's, at most 512", false},
    {"stride", 0, "N", "0", "new tokens per window; 0: half the context", false},
    {"max-tokens", 'n', "N", "0", "only the first N tokens; 0: all", false},
    {"adapter", 'a', "PATH", NULL, "a LoRA adapter to use: PEFT folder or GGUF file", false},
    {"tokenizer", 0, "FILE", NULL, "tokenizer of a model that has none", false},
    {0},
};

const command command_eval = {
    .name = "eval", .summary = "perplexity of a model on a text, speed, memory",
    .operands = "MODEL", .min_operands = 1, .max_operands = 1, .options = options, .run = run,
    .details =
        "Windows of --context tokens slide over the text by --stride; every token is\n"
        "predicted once.  A smaller stride gives each token more to go by and costs more\n"
        "time.  The interval is what another sample of such text would give.\n\n"
        "  octomil eval model.gguf --text story.txt --json\n",
};
