"""What a server said, made fit to stand in a message of ours.

Why: a server's text is foreign. It may be a page of HTML, carry terminal escapes that rewrite a log, or echo the key
that it refused. Rules: it is one line, short, without control characters and without anything that looks like a key;
a redaction too many is right, a key that gets through is not. The patterns are strings, which `re` compiles when a
server first says something that is shown.
"""

from __future__ import annotations

import re

SHOWN = 300  # characters: a reason fits, a prompt or an HTML page does not
_LOOKED_AT = 4 * SHOWN  # more is never needed, and the patterns stay cheap on a body of megabytes
_HIDDEN = "[key]"

_GAPS = r"[\s\u2028\u2029]+"
# C0, C1, zero-width and direction marks, tags, half surrogate pairs: nothing that a reader would see
_CONTROLS = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_KEYS = r"""
    (?P<before> \b (?: bearer | basic ) \s+ (?= [\w.~+/=-]{8} )               # the words of an Authorization header
      | \b (?: api [ _-]? key | x-api-key | authorization | password | secret | access_token )
        (?: [ ] provided )? ["']? \s* [:=] \s* (?: (?: bearer | basic ) \s+ )? ["']?
    ) [^\s"',;]{8,}
    | \b (?: sk | pk | rk | gsk | csk | xai | ghp | gho | github_pat | glpat | nvapi | pplx | tgp ) [-_] [\w*.-]{6,}
    | \b (?: hf_ | r8_ | AIza | AKIA | ya29\. ) [\w-]{8,}
    | \b eyJ [\w-]{8,} (?: \. [\w-]* )*                                       # a JSON web token
    | (?<= :// ) [^\s/@]+ : [^\s/@]+ (?= @ )                                  # the user and password of a URL
    | (?<! sha256[:-] ) (?<! \w ) (?= \w*\d ) (?= \w*[A-Za-z] ) \w{32,} (?: \. [\w-]+ )?   # not a digest
    """
_KEYS_FLAGS = re.VERBOSE | re.IGNORECASE | re.ASCII


def shown(text: str) -> str:
    """`text` as it may stand in a message: one line of at most 300 characters, no control characters, no keys."""
    line = re.sub(_CONTROLS, "", re.sub(_GAPS, " ", text[:_LOOKED_AT])).strip()
    line = re.sub(_KEYS, lambda match: (match["before"] or "") + _HIDDEN, line, flags=_KEYS_FLAGS)
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
