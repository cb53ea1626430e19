"""What a skilled operator would write by hand, to be timed beside reseal: `peers.py URL OLD_KEY_HEX` (`benches/table.sh` does it).

Keyset pages of 1,000 rows; AES-256-GCM from `cryptography`, which is OpenSSL's; updates sent in psycopg's pipeline mode,
each compared with the old values. It proves nothing before it writes, keeps no checkpoint, and one value that does not
open ends it. Needs: pip install 'psycopg[binary]' cryptography.
"""

import os
import sys

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PAGE = "SELECT org_id, database_url_encrypted, redis_url_encrypted FROM org_instances \
        WHERE org_id > %s ORDER BY org_id LIMIT 1000"
UPDATE = "UPDATE org_instances SET database_url_encrypted = %b, redis_url_encrypted = %b WHERE org_id = %b \
          AND database_url_encrypted IS NOT DISTINCT FROM %b AND redis_url_encrypted IS NOT DISTINCT FROM %b"


def main():
    url, old_key = sys.argv[1], AESGCM(bytes.fromhex(sys.argv[2]))
    new_key = AESGCM(os.urandom(32))

    def reseal(value):
        if not value:
            return value
        nonce = os.urandom(12)
        return nonce + new_key.encrypt(nonce, old_key.decrypt(value[:12], value[12:], None), None)

    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = off")
        cursor, last = connection.cursor(binary=True), "00000000-0000-0000-0000-000000000000"
        while rows := cursor.execute(PAGE, (last,)).fetchall():
            last = rows[-1][0]
            swaps = ((reseal(a), reseal(b), key, a, b) for key, a, b in rows)
            with connection.pipeline():
                cursor.executemany(UPDATE, swaps)
            connection.commit()


main()
