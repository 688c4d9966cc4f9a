"""Models behind an address: any server that speaks OpenAI's protocol, over the network or in this process."""
