# As wide as the old one: `create org` for an organization's token, `create deploy` for that of one app.
flyctl tokens create org --name "molecule-cp-rotation-$(date +%Y%m%d)"
read -rs TOKEN # paste it: FlyV1 fm2_…

# (b) Fly first. Restarts the control plane's machines one after another.
printf 'FLY_API_TOKEN=%s\n' "$TOKEN" | flyctl secrets import --app molecule-cp
curl -fsS https://molecule-cp.fly.dev/health

# (a) Then GitHub. The next run of the workflow has it.
printf %s "$TOKEN" | gh secret set FLY_API_TOKEN --repo Molecule-AI/molecule-monorepo
gh workflow run publish-platform-image.yml --repo Molecule-AI/molecule-monorepo
# Until this run is a success, and no earlier one is in progress:
gh run list --repo Molecule-AI/molecule-monorepo --workflow publish-platform-image.yml --limit 5

# Only now.
flyctl tokens list
flyctl tokens revoke ID_OF_THE_OLD_TOKEN
