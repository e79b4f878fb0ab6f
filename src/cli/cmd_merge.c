/* cmd_merge.c - fold an adapter into its base: W + scale B A, as a new GGUF file. */
#include "adapt/adapt.h"
#include "cli/cli.h"

static om_status run(cli *c, om_err *err)
{
    llm_model *m;
    trainable t;
    dtype type = dtype_find(str_of(cli_str(c, "type")));
    if (type == DTYPE_COUNT)
        return fail(err, OM_EARG, "--type '%s' is not a tensor type", cli_str(c, "type"));
    TRY(llm_open(c->operand[0], &m, err));
    om_status s = adapter_load(m, c->operand[1], &t, err);
    if (s == OM_OK) {
        s = lora_merge(&t, c->operand[2], type, err);
        trainable_close(&t);
    }
    llm_close(m);
    if (s == OM_OK && c->json)
        cli_print(c, "{\"out\":\"%s\"}\n", c->operand[2]);
    else if (s == OM_OK)
        cli_print(c, "wrote %s\n", c->operand[2]);
    return s;
}

static const cli_option options[] = {
    {"type", 0, "TYPE", "F16", "tensor type of the merged matrices", false},
    {0},
};

const command command_merge = {
    .name = "merge", .summary = "fold a LoRA adapter into its base model",
    .operands = "MODEL ADAPTER OUT", .min_operands = 3, .max_operands = 3,
    .options = options, .run = run,
    .details = "ADAPTER is a PEFT folder or a GGUF adapter.\n",
};
