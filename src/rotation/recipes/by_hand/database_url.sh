# console.neon.tech → project molecule-cp (cool-sea-89357706) → Roles → Reset password.
# From here on the control plane has no database: be quick.
read -rs URL # paste it: postgresql://…
printf 'DATABASE_URL=%s\n' "$URL" | flyctl secrets import --app molecule-cp
curl -fsS https://molecule-cp.fly.dev/health
