package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"ingot/internal/auth"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/policy"
)

const (
	tokenRounds = 5
	tokenChecks = 100_000 // of a round
	askedChecks = 20      // that ask Keystone
)

// measureToken measures what it costs the API to know who asks, and what they may do.
func measureToken(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Token of Keystone: time of one check",
		How: fmt.Sprintf(`Median of %d rounds of %d checks each, one after the other, in the process of this
program: what the API does with X-Auth-Token of a request (a Fernet token for a project, which was asked
about before), and whether the rule baremetal:node:get lets its owner see a node that the project leases.
Yardstick: the median of %d such checks for which Keystone is asked. Keystone is Debian's, on loopback.
`, tokenRounds, tokenChecks, askedChecks),
	}
	cloud, err := startCloud(ctx, "--auth", "keystone", "--services", "")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, cloud.stop()) }()
	token, err := cloud.token(ctx)
	if err != nil {
		return s, err
	}
	session, err := keystone.NewSession(keystone.Options{AuthURL: cloud.Keystone, Username: "ironic",
		UserDomain: "Default", Password: ingot.Secret(cloud.Password), Project: "service",
		ProjectDomain: "Default"})
	if err != nil {
		return s, err
	}
	check := func(fresh time.Duration) func() error {
		who := &auth.Keystone{Tokens: keystone.NewTokens(session, fresh),
			Log: slog.New(slog.DiscardHandler)}
		r := &http.Request{Header: http.Header{"X-Auth-Token": {token}}}
		return func() error {
			subject, err := who.Who(r.WithContext(ctx))
			if err == nil && !subject.MayOn(policy.NodeGet, "another", cloud.Projects["demo"]) {
				return errors.New("demo may not see the node that it leases")
			}
			return err
		}
	}
	asked, err := medianTime(askedChecks, 1, check(0))
	if err != nil {
		return s, err
	}
	cached, err := medianTime(tokenRounds, tokenChecks, check(time.Hour))
	if err != nil {
		return s, err
	}
	s.Figures = []figure{{What: "known token, and one rule", Value: cached, Unit: "µs", Yardstick: asked,
		Beside: "token that Keystone is asked about", N: tokenRounds}}
	return s, nil
}

// medianTime is the median of rounds, in microseconds for one of count calls.
func medianTime(rounds, count int, f func() error) (float64, error) {
	if err := f(); err != nil { // the first one signs in, and asks
		return 0, err
	}
	var values []float64
	for range rounds {
		start := time.Now()
		for range count {
			if err := f(); err != nil {
				return 0, err
			}
		}
		values = append(values, float64(time.Since(start).Nanoseconds())/1e3/float64(count))
	}
	return median(values), nil
}

// token signs demo in.
func (c *cloud) token(ctx context.Context) (string, error) {
	return tokens.Create(ctx, &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{},
		Endpoint: c.Keystone + "/v3/"}, &tokens.AuthOptions{Username: "demo", Password: c.Password,
		DomainID: "default", Scope: tokens.Scope{ProjectID: c.Projects["demo"]}}).ExtractTokenID()
}
