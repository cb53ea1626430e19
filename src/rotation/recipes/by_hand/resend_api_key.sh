# resend.com → API Keys → Create: sending access, named molecule-cp-rotation- and the date.
read -rs KEY # paste it: re_…

# --stage holds it for the next deploy, or the next image; without it the machines restart at once.
printf 'RESEND_API_KEY=%s\n' "$KEY" | flyctl secrets import --app molecule-cp --stage
flyctl secrets deploy --app molecule-cp

# A real send: the erasure of a disposable organization. Within a minute resend.com → Emails → Logs shows the mail.
curl -fsS -X DELETE https://molecule-cp.fly.dev/cp/orgs/test-rotate

# Then resend.com → API Keys → delete the old one.
