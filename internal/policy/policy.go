// Package policy tells what somebody may do: one table of rules with the names and the contents of
// Ironic's defaults. It decides; who asks is found out by package auth, and what is refused how by
// package api.
//
// A rule is a set of grants: a role at a relation to an object, such as "member of the project that
// owns the node". Whoever has one of them may. Sets are bits, so a decision costs some nanoseconds.
//
// Read Subject first, then table in rule.go.
package policy

import (
	"strings"

	"ingot/internal/keystone"
)

// Subject is somebody who asks. The zero value may do only what is open to everybody.
type Subject struct {
	// Project is the id of the project that the token is for; "" is none.
	Project string
	// System tells that the token is for the whole system.
	System bool

	roles grants // as if at no relation
	held  grants // whatever the object
}

// Operator may do everything. It is who asks where nobody is asked who they are.
var Operator = Subject{System: true, held: all}

// Options say what is left to a site. They are named as Ironic's.
type Options struct {
	// ServiceProject is the name of the project whose users with the role service have the rights of
	// members of the system (rbac_service_role_elevated_access); "" is none.
	ServiceProject string
	// Admins makes everybody with the role admin, in whatever project, an Operator, as it was before
	// tokens had scopes (enforce_new_defaults = false).
	Admins bool
}

// New returns who has a token.
func New(who *keystone.Identity, o Options) Subject {
	s := Subject{Project: who.ProjectID, System: who.System, held: everybody}
	for _, name := range who.Roles {
		s.roles |= roles[strings.ToLower(name)] // as oslo.policy compares them
	}
	switch {
	case who.System:
		s.held |= s.roles*system | s.roles*anywhere
	case who.ProjectID != "":
		s.held |= s.roles * anywhere
	}
	if o.ServiceProject != "" && who.Project == o.ServiceProject && s.roles&service != 0 {
		s.held |= elevated
	}
	if o.Admins && s.roles&admin != 0 {
		s.held |= all
	}
	return s
}

// May tells whether a rule lets s do something that is about no object, or about any.
func (s Subject) May(r Rule) bool { return table[r]&s.held != 0 }

// MayOn tells whether a rule lets s do something with an object of an owner and a lessee, which are
// ids of projects; "" is none.
func (s Subject) MayOn(r Rule, owner, lessee string) bool {
	held := s.held
	if s.Project != "" {
		if s.Project == owner {
			held |= s.roles * owns
		}
		if s.Project == lessee {
			held |= s.roles * leases
		}
	}
	return table[r]&held != 0
}
