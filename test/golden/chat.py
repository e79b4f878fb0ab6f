#!/usr/bin/env python3
"""Prompts as the published Jinja templates write them.

    python3 test/golden/chat.py DIR > test/golden/chat.txt

DIR holds NAME.jinja, the chat_template of a model of that family (they are not kept
here), NAME being a row of src/llm/chat.c.  Each conversation gives one line: name, number
of the conversation, whether the model is to speak next, and the prompt in hex without
BOS in front; a template that refuses a conversation gives no line.
"""
import pathlib
import sys

import jinja2

TALKS = [
    [("user", "Hello")],
    [("system", "You are a pirate."), ("user", " Who are you? ")],
    [("system", "Be brief.\n"), ("user", "Hello"), ("assistant", "Hi there"), ("user", "Who?"),
     ("assistant", "  An assistant \n"), ("user", "Another\nquestion")],
    [("user", "Hello"), ("assistant", "Hi"), ("user", "Bye"), ("assistant", "So long")],
]
EOS = {"deepseek2": "<\uff5cend\u2581of\u2581sentence\uff5c>", "falcon3": "<|endoftext|>",
       "phi3": "", "phi4-mini": ""}


def refuse(message):
    raise jinja2.TemplateError(message)


def main():
    env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
        template = env.from_string(path.read_text())
        for i, talk in enumerate(TALKS):
            generate = talk[-1][0] == "user"
            try:
                text = template.render(
                    messages=[{"role": r, "content": c} for r, c in talk], bos_token="<s>",
                    eos_token=EOS.get(path.stem, "</s>"), add_generation_prompt=generate,
                    raise_exception=refuse)
            except jinja2.TemplateError:
                continue
            text = text.removeprefix("<s>")
            print(path.stem, i, int(generate), text.encode().hex())


main()
