"""What the black-box tests share: running the tools, comparing directories, checkpoints to work on."""
