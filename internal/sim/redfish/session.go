package redfish

import (
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	servicePath  = Root + "SessionService"
	sessionsPath = servicePath + "/Sessions"
)

// A session is somebody who has signed in.
type session struct {
	id            string
	created, used time.Time
}

// sessionService tells of sessions.
func (s *Service) sessionService() object {
	return object{
		"@odata.id":      servicePath,
		"@odata.type":    "#SessionService.v1_1_3.SessionService",
		"Id":             "SessionService",
		"Name":           "Session Service",
		"ServiceEnabled": true,
		"SessionTimeout": int(s.o.SessionTimeout.Seconds()),
		"Sessions":       link(sessionsPath),
	}
}

// sessionCollection lists who is signed in.
func (s *Service) sessionCollection() object {
	var members []string
	s.mu.Lock()
	s.expire()
	for _, v := range s.sessions {
		members = append(members, sessionsPath+"/"+v.id)
	}
	s.mu.Unlock()
	slices.Sort(members)
	return collection("Session", sessionsPath, members...)()
}

// signIn begins a session.
func (s *Service) signIn(r *http.Request) reply {
	var who struct{ UserName, Password string }
	if err := decode(r, &who); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isUser(who.UserName, who.Password) {
		return failure(http.StatusUnauthorized, "ResourceAtUriUnauthorized", sessionsPath,
			"wrong user name or password")
	}
	s.expire()
	if s.quirks.NoMoreSessions || len(s.sessions) >= s.o.Sessions {
		return failure(http.StatusServiceUnavailable, "SessionLimitExceeded")
	}
	token := rand.Text()
	now := time.Now()
	v := &session{id: s.nextID(), created: now, used: now}
	s.sessions[token] = v
	return reply{status: http.StatusCreated, body: s.sessionObject(v), header: map[string]string{
		"X-Auth-Token": token, "Location": sessionsPath + "/" + v.id,
	}}
}

// showSession is one session; its token is told only once.
func (s *Service) showSession(r *http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	for _, v := range s.sessions {
		if v.id == r.PathValue("id") {
			return reply{status: http.StatusOK, body: s.sessionObject(v)}
		}
	}
	return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
}

// signOut ends a session.
func (s *Service) signOut(r *http.Request) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, v := range s.sessions {
		if v.id == r.PathValue("id") {
			delete(s.sessions, token)
			return reply{status: http.StatusNoContent}
		}
	}
	return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
}

// EndSessions forgets all sessions, as a BMC does that was restarted.
func (s *Service) EndSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.sessions)
}

// SetPassword changes the user's password. Sessions go on.
func (s *Service) SetPassword(password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.password = password
}

// signedIn says whether a request is of the user, by session or by basic authentication.
func (s *Service) signedIn(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if user, password, ok := r.BasicAuth(); ok {
		return s.isUser(user, password)
	}
	s.expire()
	v := s.sessions[r.Header.Get("X-Auth-Token")]
	if v == nil {
		return false
	}
	v.used = time.Now()
	return true
}

// isUser compares a name and a password. The caller holds mu.
func (s *Service) isUser(name, password string) bool {
	return name == s.o.User && subtle.ConstantTimeCompare([]byte(password), []byte(s.password)) == 1
}

// expire ends the sessions that nobody uses. The caller holds mu.
func (s *Service) expire() {
	for token, v := range s.sessions {
		if time.Since(v.used) > s.o.SessionTimeout {
			delete(s.sessions, token)
		}
	}
}

// nextID is a new ID. The caller holds mu.
func (s *Service) nextID() string {
	s.lastID++
	return strconv.Itoa(s.lastID)
}

// sessionObject is a session as clients read it.
func (s *Service) sessionObject(v *session) object {
	return object{
		"@odata.id":   sessionsPath + "/" + v.id,
		"@odata.type": "#Session.v1_3_0.Session",
		"Id":          v.id,
		"Name":        "Session " + v.id,
		"UserName":    s.o.User,
		"CreatedTime": v.created.UTC().Format(time.RFC3339),
	}
}
