// Package cli is the client side of the command line: `ingot node ...` and `ingot conductor ...`.
// It talks to the REST API only, as any other client would (through gophercloud, so every command
// is also a check of compatibility), and leaves serving, building ramdisks and test machines to
// others.
//
// Read client.go first, then node.go.
package cli
