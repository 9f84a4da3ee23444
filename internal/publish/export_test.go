package publish

// Pending is how many are to be removed later.
func (r *Remover) Pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.late)
}
