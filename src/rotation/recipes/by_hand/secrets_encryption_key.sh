# In place: the same by its single commands. KMS_KEY_ARN is set beside the old key before the first `run`.
reseal plan --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN
reseal fence observe --new aws-kms:ARN
flyctl secrets set --app molecule-cp KMS_KEY_ARN=ARN
reseal run --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN
reseal fence enforce --new aws-kms:ARN
reseal run --old static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN
reseal verify --new aws-kms:ARN
reseal retire static:env:SECRETS_ENCRYPTION_KEY --new aws-kms:ARN
flyctl secrets unset --app molecule-cp SECRETS_ENCRYPTION_KEY

# Where the key or the tenants' URLs were read: every tenant gets new ones, by the single commands. The old key is not needed.
# Other orders, strategies and canaries: reseal reprovision run --help
reseal reprovision plan --new aws-kms:ARN --kms aws-kms:ARN
flyctl secrets set --app molecule-cp KMS_KEY_ARN=ARN
reseal reprovision run --plan DIGEST --new aws-kms:ARN --kms aws-kms:ARN
reseal reprovision status
flyctl secrets unset --app molecule-cp SECRETS_ENCRYPTION_KEY

# DANGEROUS: a key that replaces the old one outright, with neither of the above. Every row of org_instances is lost with
# it, and every tenant is unreachable until it is provisioned anew, with a Neon branch and a Fly machine of its own.
#   openssl rand -hex 32
