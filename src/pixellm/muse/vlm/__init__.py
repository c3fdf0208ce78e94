"""Engine that asks a vision-language model behind a server: prompt → reply (cached in the journal) → records."""
