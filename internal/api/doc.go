// Package api answers OpenStack Ironic's REST API: it decodes a request, checks it against the
// tables of routes, fields and verbs, asks the store or, through rpc, a conductor, and encodes
// the answer as the requested microversion has it. It does no work on machines, knows no driver
// and never decides what a provision state leads to.
//
// Two tables carry the contract: routes (route.go) and the fields of each resource
// (node_field.go, port_field.go). Read route.go first, then api.go, then field.go.
package api
