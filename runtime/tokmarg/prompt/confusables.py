"""Confusables: characters of other scripts that look like ASCII letters and signs.

A Cyrillic ``А`` looks like ``A``, ``‹`` like ``<``. Characters that NFKC maps to ASCII (fullwidth, mathematical) are
not here; :mod:`.delimiters` folds them anyway. Most of the table is from confusables.txt of Unicode Technical Standard
39 (https://www.unicode.org/reports/tr39/, Unicode License v3), namely those with one ASCII letter or sign for a
prototype; added are small capitals, and lower-case letters whose capitals look Latin (``в`` for ``В``), since
delimiters are compared without regard to case. A capital that looks like ``I`` counts as ``i``, a small letter like it
as ``l``.
"""

from __future__ import annotations

__all__ = ["CONFUSABLES"]

_BY_ASCII = {
    "#": "♯",
    "*": "⁎∗✱✻𐌟",
    "+": "᛭➕𐊛",
    "-": "˗‐‒–⁃−➖Ⲻ",
    "/": "᜵⁁⁄∕╱⟋⧸Ⳇ〳ノ㇓丿𝈺",
    ":": "ː˸։ःઃ᛬᠃᠉⁚∶ꓽ꞉",
    "<": "˂ᐸᚲ‹❬❮⟨〈𝈶",
    "=": "᐀⹀゠꓿",
    ">": "˃ᐳ›❭❯⟩〉𖼿𝈷",
    "a": "ɑΑαАаᎪᗅᴀ⍺ꓮ𐊠𖽀",
    "b": "ƄʙΒβВЬвᏏᏴᑲᖯᗷꓐꞴ𐊂𐊡𐌁",
    "c": "СсᏟᴄⲤⲥꓚꮯ𐊢𐌂𐐕𐐽𐔜𑣩𑣲🝌",
    "d": "ԁᎠᏧᑯᗞᗪᴅꓒꓓ",
    "e": "ΕεЕеєҽԑᎬᴇ℮⋿ⴹꓰꬲ𐊆𑢦𑢮",
    "f": "ϜքᖴẝꓝꜰꞘꞙꬵ𐊇𐊥𐔥𑢢𑣂𝈓",
    "g": "ƍɡɢԌցᏀᏳᶃꓖ",
    "h": "ʜΗНнһհᎻᏂᕼⲎꓧ𐋏",
    "i": "ıƖɩɪΙιІіӀᎥ⍳Ⲓꓲꙇꭵ𑣃",
    "j": "ͿϳЈјᎫᒍᴊꓙꞲ",
    "k": "ΚκКкҝᏦᛕᴋⲔꓗ𐔘",
    "l": "ʟӏ۱Ꮮᒪᛁ⏽Ⳑⵏꓡ𐊊𐌉𐌠𐐛𐔦𑢣𑢲𖼖𖼨𝈪",
    "m": "ΜϺМмᎷᗰᛖᴍⲘꓟ𐊰𐌑",
    "n": "ɴΝηпոռⲚꓠ𐔓",
    "o": "ΟοσОоՕօ۵०০੦૦ଠ୦௦ం౦ಂ೦ംഠ൦ං๐໐ဝ၀ჿዐᴏᴑⲞⲟⵔ〇ꓳꬽ𐊒𐊫𐐄𐐬𐓂𐓪𐔖𑓐𑢵𑣈𑣗𑣠",
    "p": "ΡρРрᏢᑭᴘ⍴Ⲣⲣꓑ𐊕",
    "q": "ԛգզⵕꞯ",
    "r": "ƦʀгᎡᏒᖇᴦⲅꓣꭇꭈꮁ𐒴𖼵𝈖",
    "s": "ƽЅѕՏᏕᏚꓢꜱꮪ𐊖𐐠𐑈𑣁𖼺",
    "t": "ΤτТтᎢᴛ⊤⟙Ⲧꓔ𐊗𐊱𐌕𑢼𖼊🝨",
    "u": "ʋμυՍսሀᑌᴜ∪⋃ꓴꞟꭎꭒ𐓎𐓶𑢸𑣘𖽂",
    "v": "νѴѵ۷Ꮩᐯᴠ∨⋁ⴸꓦꛟꮩ𐔝𑜆𑢠𑣀𖼈𝈍",
    "w": "ɯωшѡԜԝաᎳᏔᴡꓪꮃ𑜊𑜎𑜏𑣦𑣯",
    "x": "×ΧχХхᕁᕽ᙭᙮ᚷ╳⤫⤬⨯ⲬⵝꓫꞳ𐊐𐊴𐌗𐌢𐔧𑣬",
    "y": "ɣʏΥγУуҮүყᎩᎽᶌỿⲨꓬꭚ𐊲𑢤𑣜𖽃",
    "z": "ΖᏃᴢꓜꮓ𐋵𑢩𑣄𑣥",
    "|": "ǀ∣│┃❘",
    "~": "⁓∼",
}
#: Code point -> the lower-case ASCII character that it looks like.
CONFUSABLES: dict[int, str] = {ord(c): plain for plain, others in _BY_ASCII.items() for c in others}
# Negative circled and negative squared capitals, of which NFKC knows nothing.
CONFUSABLES |= {start + i: chr(ord("a") + i) for start in (0x1F150, 0x1F170) for i in range(26)}
