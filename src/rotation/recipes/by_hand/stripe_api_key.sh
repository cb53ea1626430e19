# Stripe dashboard → Developers → API keys → Roll key on the live secret key. Choose an expiry that leaves time.
read -rs KEY # paste it: sk_live_…
printf 'STRIPE_API_KEY=%s\n' "$KEY" | flyctl secrets import --app molecule-cp --stage
flyctl secrets deploy --app molecule-cp

# From an authenticated test session, open https://molecule-cp.fly.dev/cp/billing/checkout: it leads to a page of Stripe's.
# Stripe ends the old key by itself when its expiry is over.
