#!/usr/bin/env python3
"""Writes formats.json: test vectors for the value formats of docs/formats.md.

An implementation from the specification alone, on the `cryptography` package (pip install cryptography). Nothing is
random: keys and nonces are hashes of labels, so that a second run writes the same bytes.

    python3 tests/vectors/generate.py > tests/vectors/formats.json

A case has what a reader knows (keys, and for v3 the cell), the value, and either the `plaintext` that it opens to or
`fails`, the layer that must refuse it:

    structure   the bytes don't have the format's structure
    key-id      v3: the header names another data key
    tag         the authentication tag does not match

`shape` lists the formats that the bytes of the value allow, in the order in which a reader tries them.
"""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

TABLE, COLUMN, ROW = "org_instances", "database_url_encrypted", "0b5a7c3e-9d41-4f0e-8a52-6c1d2e3f4a5b"
URL = b"postgres://app:not-a-secret@db.example.com:5432/acme"


def fixed(label, length):
    return hashlib.shake_256(b"reseal test vector: " + label.encode()).digest(length)


STATIC_KEY, OTHER_STATIC_KEY = fixed("static key", 32), fixed("other static key", 32)
DATA_KEY, OTHER_DATA_KEY = fixed("data key", 32), fixed("other data key", 32)
ENCRYPTED_DEK = fixed("encrypted dek", 184)


def nonce(label, first=None):
    """A nonce; `first` replaces its first bytes."""
    drawn = fixed("nonce: " + label, 12)
    return drawn if first is None else first + drawn[len(first):]


def hkdf(key, info, length):
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)


def lp(text):
    data = text.encode("utf-8")
    return len(data).to_bytes(4, "big") + data


def static_id(key):
    return hkdf(key, b"reseal static key id", 16)


def key_id(key):
    return hkdf(key, b"reseal v3 key id", 16)


def v3_info(table, column, row):
    return b"reseal v3 value" + lp(table) + lp(column) + lp(row)


def v1(key, n, plaintext, aad=b""):
    return n + AESGCM(key).encrypt(n, plaintext, aad)


def v2(key, dek, n, plaintext, aad=b"", length=None):
    header = b"\x02" + (len(dek).to_bytes(2, "big") if length is None else length) + dek
    return header + n + AESGCM(key).encrypt(n, plaintext, aad)


def v3(key, table, column, row, n, plaintext, info=None, aad=None, value_key=None):
    header = b"\x03" + key_id(key)
    derived = hkdf(key, v3_info(table, column, row) if info is None else info, 32)
    return header + n + AESGCM(value_key or derived).encrypt(n, plaintext, header if aad is None else aad)


def shape(value):
    readings = []
    if len(value) >= 45 and value[0] == 3:
        readings.append("v3")
    if len(value) >= 32 and value[0] == 2:
        length = int.from_bytes(value[1:3], "big")
        if 1 <= length <= 6144 and len(value) >= 3 + length + 28:
            readings.append("v2")
    if len(value) >= 28:
        readings.append("v1")
    return readings


def flip(value, index, bit=0):
    changed = bytearray(value)
    changed[index] ^= 1 << bit
    return bytes(changed)


CASES = []


def case(name, form, inputs, value, plaintext=None, fails=None):
    assert (plaintext is None) != (fails is None), name
    entry = {"name": name, "format": form}
    entry.update({k: v.hex() if isinstance(v, bytes) else v for k, v in inputs.items()})
    entry["value"] = value.hex()
    entry["shape"] = shape(value)
    assert fails is None or (fails == "structure") == (form not in entry["shape"]), name
    if fails is None:
        entry["plaintext"] = plaintext.hex()
    else:
        entry["fails"] = fails
    CASES.append(entry)


def v1_cases():
    known = {"static_key": STATIC_KEY}
    for plaintext in [b"", b"x", bytes(15), bytes(16), bytes(17), URL, fixed("long plaintext", 1000)]:
        label = f"v1 of {len(plaintext)} bytes"
        case(label, "v1", known, v1(STATIC_KEY, nonce(label), plaintext), plaintext)

    label = "v1 that starts with 0x02 and has not the structure of v2"
    case(label, "v1", known, v1(STATIC_KEY, nonce(label, b"\x02\xff"), URL), URL)
    label = "v1 that also has the structure of v3"
    case(label, "v1", known, v1(STATIC_KEY, nonce(label, b"\x03"), URL), URL)
    label = "v1 that also has the structure of v2"
    case(label, "v1", known, v1(STATIC_KEY, nonce(label, b"\x02\x00\x10"), URL), URL)
    label = "v1 of 0 bytes that starts with 0x02 and is too short for v2"
    case(label, "v1", known, v1(STATIC_KEY, nonce(label, b"\x02\x00\x01"), b""), b"")

    good = v1(STATIC_KEY, nonce("v1 negative"), URL)
    case("v1: nothing at all", "v1", known, b"", fails="structure")
    case("v1: one byte too short", "v1", known, good[:27], fails="structure")
    case("v1: last byte cut off", "v1", known, good[:-1], fails="tag")
    case("v1: one byte added", "v1", known, good + b"\x00", fails="tag")
    case("v1: bit of the nonce flipped", "v1", known, flip(good, 0, 7), fails="tag")
    case("v1: bit of the ciphertext flipped", "v1", known, flip(good, 12), fails="tag")
    case("v1: bit of the tag flipped", "v1", known, flip(good, -1), fails="tag")
    case("v1: tag of zeros", "v1", known, good[:-16] + bytes(16), fails="tag")
    case("v1: another key", "v1", {"static_key": OTHER_STATIC_KEY}, good, fails="tag")
    case("v1: with associated data", "v1", known, v1(STATIC_KEY, nonce("v1 aad"), URL, b"\x01"), fails="tag")


def v2_cases():
    known = {"data_key": DATA_KEY, "encrypted_dek": ENCRYPTED_DEK}
    for plaintext in [b"", b"x", URL, fixed("long plaintext", 1000)]:
        label = f"v2 of {len(plaintext)} bytes"
        case(label, "v2", known, v2(DATA_KEY, ENCRYPTED_DEK, nonce(label), plaintext), plaintext)
    for length in (1, 255, 256, 6144):
        label, dek = f"v2 with a wrapped key of {length} bytes", fixed("encrypted dek", length)
        inputs = {"data_key": DATA_KEY, "encrypted_dek": dek}
        case(label, "v2", inputs, v2(DATA_KEY, dek, nonce(label), URL), URL)
    label = "v2 of 0 bytes with a wrapped key of 1 byte, the shortest there is"
    case(label, "v2", {"data_key": DATA_KEY, "encrypted_dek": b"\x02"}, v2(DATA_KEY, b"\x02", nonce(label), b""), b"")

    good = v2(DATA_KEY, ENCRYPTED_DEK, nonce("v2 negative"), URL)
    case("v2: one byte too short", "v2", known, good[:3 + 184 + 27], fails="structure")
    case("v2: header only", "v2", known, good[:3], fails="structure")
    case("v2: first byte 0x01", "v2", known, b"\x01" + good[1:], fails="structure")
    case("v2: wrapped key of 0 bytes", "v2", known, v2(DATA_KEY, b"", nonce("v2 empty"), URL), fails="structure")
    too_long = fixed("encrypted dek", 6145)
    case("v2: wrapped key of 6145 bytes", "v2", known, v2(DATA_KEY, too_long, nonce("v2 6145"), URL), fails="structure")
    case("v2: length beyond the end", "v2", known, good[:1] + b"\x01\xb8" + good[3:], fails="structure")
    case("v2: little-endian length", "v2", known, v2(DATA_KEY, ENCRYPTED_DEK, nonce("v2 le"), URL, length=b"\xb8\x00"),
         fails="structure")
    case("v2: length one too small", "v2", known, good[:2] + b"\xb7" + good[3:], fails="tag")
    case("v2: last byte cut off", "v2", known, good[:-1], fails="tag")
    case("v2: one byte added", "v2", known, good + b"\x00", fails="tag")
    case("v2: bit of the nonce flipped", "v2", known, flip(good, 3 + 184), fails="tag")
    case("v2: bit of the ciphertext flipped", "v2", known, flip(good, 3 + 184 + 12), fails="tag")
    case("v2: bit of the tag flipped", "v2", known, flip(good, -1), fails="tag")
    case("v2: another data key", "v2", {**known, "data_key": OTHER_DATA_KEY}, good, fails="tag")
    header = b"\x02\x00\xb8" + ENCRYPTED_DEK
    case("v2: with its header as associated data", "v2", known,
         v2(DATA_KEY, ENCRYPTED_DEK, nonce("v2 aad"), URL, aad=header), fails="tag")


def v3_cases():
    def known(table=TABLE, column=COLUMN, row=ROW, key=DATA_KEY):
        return {"data_key": key, "table": table, "column": column, "row": row}

    for plaintext in [b"", b"x", bytes(15), bytes(16), bytes(17), URL, fixed("long plaintext", 1000)]:
        label = f"v3 of {len(plaintext)} bytes"
        case(label, "v3", known(), v3(DATA_KEY, TABLE, COLUMN, ROW, nonce(label), plaintext), plaintext)
    for what, cell in {
        "an integer key": ("tenants", "redis_url", "-42"),
        "a text key outside ASCII": ("mandanten", "schlüssel", "Zürich 🏔"),
        "an empty key": ("t", "c", ""),
        "names of 300 bytes": ("t" * 300, "c" * 300, "r" * 300),
    }.items():
        label = f"v3 with {what}"
        case(label, "v3", known(*cell), v3(DATA_KEY, *cell, nonce(label), URL), URL)

    good = v3(DATA_KEY, TABLE, COLUMN, ROW, nonce("v3 negative"), URL)
    case("v3: one byte too short", "v3", known(), good[:44], fails="structure")
    case("v3: first byte 0x04", "v3", known(), b"\x04" + good[1:], fails="structure")
    case("v3: bit of the key id flipped", "v3", known(), flip(good, 16), fails="key-id")
    case("v3: another data key", "v3", known(key=OTHER_DATA_KEY), good, fails="key-id")
    case("v3: relabelled with the id of another data key", "v3", known(key=OTHER_DATA_KEY),
         b"\x03" + key_id(OTHER_DATA_KEY) + good[17:], fails="tag")
    case("v3: bit of the nonce flipped", "v3", known(), flip(good, 17), fails="tag")
    case("v3: bit of the ciphertext flipped", "v3", known(), flip(good, 29), fails="tag")
    case("v3: bit of the tag flipped", "v3", known(), flip(good, -1), fails="tag")
    case("v3: last byte cut off", "v3", known(), good[:-1], fails="tag")
    case("v3: one byte added", "v3", known(), good + b"\x00", fails="tag")
    case("v3: moved to another row", "v3", known(row="1c6b8d4f-0e52-4a1f-9b63-7d2e3f4a5b6c"), good, fails="tag")
    case("v3: moved to another column", "v3", known(column="redis_url_encrypted"), good, fails="tag")
    case("v3: moved to another table", "v3", known(table="org_instances_old"), good, fails="tag")
    case("v3: uuid in upper case", "v3", known(row=ROW.upper()), good, fails="tag")
    case("v3: names that join to the same text", "v3", known("a", "bc", "d"),
         v3(DATA_KEY, "ab", "c", "d", nonce("v3 join"), URL), fails="tag")
    for what, info in {
        "lengths left out of the derivation": b"reseal v3 value" + (TABLE + COLUMN + ROW).encode(),
        "the row left out of the derivation": b"reseal v3 value" + lp(TABLE) + lp(COLUMN),
        "lengths of 16 bits in the derivation":
            b"reseal v3 value" + b"".join(lp(x)[2:] for x in (TABLE, COLUMN, ROW)),
    }.items():
        case(f"v3: {what}", "v3", known(),
             v3(DATA_KEY, TABLE, COLUMN, ROW, nonce(what), URL, info=info), fails="tag")
    case("v3: no associated data", "v3", known(),
         v3(DATA_KEY, TABLE, COLUMN, ROW, nonce("v3 no aad"), URL, aad=b""), fails="tag")
    case("v3: sealed with the data key itself", "v3", known(),
         v3(DATA_KEY, TABLE, COLUMN, ROW, nonce("v3 direct"), URL, value_key=DATA_KEY), fails="tag")


def base64_cases():
    def text_case(name, text, value=None):
        return {"name": name, "text": text, "value": None if value is None else value.hex()}

    value = b"\xfb\xff\xbf\x00"  # +/+/AA==
    good = base64.b64encode(value).decode()
    wrapped = base64.encodebytes(bytes(60)).decode()
    return [
        text_case("no padding needed", base64.b64encode(bytes(3)).decode(), bytes(3)),
        text_case("one sign of padding", base64.b64encode(bytes(2)).decode(), bytes(2)),
        text_case("two signs of padding", good, value),
        text_case("nothing", "", b""),
        text_case("padding left out", good.rstrip("=")),
        text_case("padding half left out", good[:-1]),
        text_case("padding too long", good + "="),
        text_case("padding in the middle", "AA==AAAA"),
        text_case("URL-safe alphabet", good.replace("+", "-").replace("/", "_")),
        text_case("newline at the end", good + "\n"),
        text_case("lines of 76", wrapped),
        text_case("space at the start", " " + good),
        text_case("bits set behind the last byte", "AB=="),
        text_case("one digit too many", "AAAAA"),
        text_case("not base64", "postgres://"),
        text_case("hexadecimal as Postgres prints bytea", "\\x00"),
    ]


def example():
    """The worked example of docs/formats.md, every step of it."""
    n1, n2, n3 = nonce("example v1"), nonce("example v2"), nonce("example v3")
    dek = fixed("example encrypted dek", 16)
    info = v3_info(TABLE, COLUMN, ROW)
    value_key = hkdf(DATA_KEY, info, 32)
    bound = v3(DATA_KEY, TABLE, COLUMN, ROW, n3, URL)
    steps = {
        "plaintext": URL.decode(),
        "v1 key": STATIC_KEY,
        "v1 static_id": static_id(STATIC_KEY),
        "v1 nonce": n1,
        "v1 value": v1(STATIC_KEY, n1, URL),
        "v2 data key": DATA_KEY,
        "v2 encrypted_dek": dek,
        "v2 nonce": n2,
        "v2 value": v2(DATA_KEY, dek, n2, URL),
        "v3 data key": DATA_KEY,
        "v3 key_id": key_id(DATA_KEY),
        "v3 table": TABLE,
        "v3 column": COLUMN,
        "v3 row": ROW,
        "v3 info": info,
        "v3 K": value_key,
        "v3 AAD": bound[:17],
        "v3 nonce": n3,
        "v3 ct": bound[29:-16],
        "v3 tag": bound[-16:],
        "v3 value": bound,
        "v3 text": base64.b64encode(bound).decode(),
    }
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in steps.items()}


def main():
    v1_cases()
    v2_cases()
    v3_cases()
    vectors = {
        "example": example(),
        "ids": [{"key": key.hex(), "static_id": static_id(key).hex(), "key_id": key_id(key).hex()}
                for key in (STATIC_KEY, OTHER_STATIC_KEY, DATA_KEY, OTHER_DATA_KEY, bytes(32))],
        "cases": CASES,
        "base64": base64_cases(),
    }
    json.dump(vectors, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
