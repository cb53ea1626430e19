# In the current folder: two authorities, and a certificate for `localhost` that the first of them signed.
cat >openssl.cnf <<'END'
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost
END
new() { openssl req -x509 -config openssl.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "$@" 2>&1; }
new -extensions authority -subj '/CN=trusted test authority' -keyout ca.key -out ca.crt &&
    new -extensions authority -subj '/CN=another test authority' -keyout untrusted-ca.key -out untrusted-ca.crt &&
    new -extensions server -subj '/CN=localhost' -CA ca.crt -CAkey ca.key -keyout server.key -out server.crt
