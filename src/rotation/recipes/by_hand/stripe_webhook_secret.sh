# Stripe dashboard → Developers → Webhooks → the endpoint of molecule-cp → Roll secret. For 24 hours both are shown.
read -rs SECRET # paste the new one: whsec_…
printf 'STRIPE_WEBHOOK_SECRET=%s\n' "$SECRET" | flyctl secrets import --app molecule-cp --stage
flyctl secrets deploy --app molecule-cp

# Within the 24 hours: send an event again that was delivered before. It is taken when the log has no
# `400 invalid signature`. (`stripe listen --forward-to` signs with a secret of its own, and proves nothing of this one.)
stripe events resend EVENT --webhook-endpoint ENDPOINT --live
flyctl logs --app molecule-cp --no-tail | tail -30

# Then wait until the window is over, or press "Delete old secret" in the dashboard.
