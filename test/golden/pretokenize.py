#!/usr/bin/env python3
"""Words of tricky texts, cut by Python's `regex` module with the published expressions.

    python3 test/golden/pretokenize.py > test/golden/pretokenize.txt

Per text a line of hex, then per scheme its name and the byte lengths of the words.
The texts are random strings over characters at which the expressions differ, and a few
sentences; the seed is fixed.
"""
import random

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FOLD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
CASED = ("A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
         "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
         "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
         "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
         "\u1d79-\u1d9a\u1e00-\u1f15\u212a-\u212d\u2c00-\u2c7b\u2c7e-\u2ce4\ua640-\ua66d"
         "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\uff21-\uff3a"
         "\uff41-\uff5a\U00010400-\U0001044f\U0001e900-\U0001e943")
ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
SCHEMES = {
    "gpt-2": [GPT2],
    "llama-bpe": [FOLD + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST],
    "qwen2": [FOLD + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + REST],
    "qwen35": [FOLD + r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
               + REST],
    "smollm": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "deepseek-llm": [r"[\r\n]", rf"\s?[{CASED}]+",
                     "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                     r"\s+$", ASIAN, r"\p{N}+"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", ASIAN, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
                    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
                    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + REST],
    "chameleon": [r"<sentinel:[0-9]+>", r"(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z",
                  r"(?:[\t\n]|    |  )", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
}
SENTENCES = [
    "It's 2026: we'LL see what they'd DO, won't we?\r\n\r\n  \"Yes\", he said...\n",
    "x = foo(bar[3], 1234567)  # caf\u00e9 na\u00efve \u2014 \u00bfqu\u00e9?\n\treturn\tx\n",
    "\u4eca\u65e5\u306f\u4e16\u754c\u3001\u30c6\u30b9\u30c8123\uff01 \ud55c\uad6d\uc5b4 "
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0939\u093f\u0928\u094d\u0926\u0940 \U0001f468\u200d\U0001f469",
    "<sentinel:42> IMGIMGABCDZ IMGIMGABCDEZ IMGIMGZ <sentinel:> <sentinel:7",
    "don't DON'T don'\u017f we'rE a'ss 'Tis ''s '  's",
    "   leading, trailing   ", "\n\n\n \n\t \n", " ", "\u3000", "a\u3000\u3000b\u3000.",
]
ALPHABET = list("  \t\n\r'''sStTdDmMrReEvVlL019.,!$+<=>^~|`_-(\"\\AZaz") + [
    "\u00a0", "\u3000", "\u2003", "\x85", "\u00e9", "\u00df", "\u017f", "\u0301", "\u0940", "\u4e16",
    "\u306e", "\u30c6", "\ud55c", "\u0416", "\u05d0", "\u0663", "\u00bd", "\u2167", "\u3001",
    "\uff01", "\u2018", "\u20ac", "\u00a9", "\U0001f680", "\u200d", "\U00010400", "\U0001d4d0",
    "\u2d00", "\u01c5", "\x00", "\x7f", "\u0e01", "    ", "123", "\r\n"]


def split(rules, text):
    words = [text]
    for rule in rules:
        out = []
        for w in words:
            at = 0
            for m in regex.finditer(rule, w):
                if m.start() > at:
                    out.append(w[at:m.start()])
                if m.end() > m.start():
                    out.append(m.group())
                at = m.end()
            if at < len(w):
                out.append(w[at:])
        words = out
    assert "".join(words) == text
    return words


def main():
    rnd = random.Random(7)
    texts = SENTENCES + ["".join(rnd.choice(ALPHABET) for _ in range(rnd.randrange(1, 24)))
                         for _ in range(190)]
    for text in texts:
        print(text.encode().hex())
        for name, rules in SCHEMES.items():
            print(name, *(len(w.encode()) for w in split(rules, text)))


main()
