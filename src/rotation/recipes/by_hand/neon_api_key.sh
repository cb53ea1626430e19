# console.neon.tech → Account settings → API keys → Create.
read -rs KEY # paste it: napi_…
printf 'NEON_API_KEY=%s\n' "$KEY" | flyctl secrets import --app molecule-cp

# A test provision, and away with it.
SLUG="keytest-$(date +%s)"
curl -fsS -X POST https://molecule-cp.fly.dev/cp/orgs \
    -H 'Content-Type: application/json' -d "{\"slug\":\"$SLUG\",\"name\":\"Rotation test\"}"
# After a minute:
flyctl logs --app molecule-cp --no-tail | tail -30
curl -fsS -X DELETE "https://molecule-cp.fly.dev/cp/orgs/$SLUG"

# Then console.neon.tech → Account settings → API keys → revoke the old one.
