package policy

// Rules are the names of all rules.
func Rules() []Rule {
	var names []Rule
	for r := range table {
		names = append(names, r)
	}
	return names
}
