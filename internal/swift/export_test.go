package swift

// MinutesPass has the account ask for its key again.
func (a *Account) MinutesPass() {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := *a.terms
	old.until = old.until.Add(-termsTime)
	a.terms = &old
}
