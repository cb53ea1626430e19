# resend.com → Domains → Add Domain gives three DNS records (SPF, DKIM, DMARC) for the DNS provider of moleculesai.app.
# Nothing is set before the domain is verified there: no server checks it, and every send would get 403.
printf 'RESEND_FROM_EMAIL=%s\n' 'Molecule AI <noreply@moleculesai.app>' |
    flyctl secrets import --app molecule-cp --stage
flyctl secrets deploy --app molecule-cp
