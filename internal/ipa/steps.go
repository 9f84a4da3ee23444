package ipa

import (
	"context"
	"encoding/json"
	"slices"

	"ingot/internal/ingot"
)

// Abilities are what an agent can do when a node is deployed.
type Abilities struct {
	// Steps are their names after that of their interface, "deploy.write_image", sorted.
	Steps []string
	// Versions are those of the agent's hardware managers, by their names. It is told them with each step,
	// and refuses steps of others.
	Versions map[string]string
}

// Bounds of what is kept of an agent's abilities.
const (
	maxSteps    = 1000
	maxManagers = 100
	maxName     = 128
)

// Has tells whether a step of an interface is among them.
func (a Abilities) Has(iface, step string) bool {
	_, found := slices.BinarySearch(a.Steps, iface+"."+step)
	return found
}

// DeploySteps asks an agent what it can do when a node is deployed; node and ports are as in a step. Errors
// are those of Run.
func (c *Client) DeploySteps(ctx context.Context, node, ports any) (Abilities, error) {
	command, err := c.Run(ctx, "deploy.get_deploy_steps", ingot.Object{"node": node, "ports": ports})
	if err != nil {
		return Abilities{}, err
	}
	return decodeAbilities(command.Result)
}

// decodeAbilities reads the result of get_deploy_steps: lists of steps by hardware manager.
func decodeAbilities(data []byte) (Abilities, error) {
	var result struct {
		Steps map[string][]struct {
			Interface string `json:"interface"`
			Step      string `json:"step"`
		} `json:"deploy_steps"`
		Versions map[string]string `json:"hardware_manager_version"`
	}
	if err := json.Unmarshal(data, &result); err != nil {
		return Abilities{}, ingot.Errorf(ingot.Invalid, "the agent's list of steps: %w", err)
	}
	a := Abilities{Versions: result.Versions}
	for name, version := range a.Versions {
		if len(name) > maxName || len(version) > maxName || len(a.Versions) > maxManagers {
			return Abilities{}, ingot.Errorf(ingot.Invalid, "the agent's list of steps: more than %d hardware "+
				"managers, or one whose name or version has more than %d bytes", maxManagers, maxName)
		}
	}
	for _, steps := range result.Steps {
		for _, s := range steps {
			if len(a.Steps) == maxSteps {
				return Abilities{}, ingot.Errorf(ingot.Invalid, "the agent's list of steps: more than %d", maxSteps)
			}
			a.Steps = append(a.Steps, Words(s.Interface+"."+s.Step, maxName))
		}
	}
	slices.Sort(a.Steps)
	a.Steps = slices.Compact(a.Steps)
	return a, nil
}
