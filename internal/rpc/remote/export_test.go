package remote

import "context"

// Answer is what a call gets.
func Answer(r *Router, data []byte) []byte { return r.handle(context.Background(), data) }
