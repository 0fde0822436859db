"""The JSBSim airframes against their published tables: propulsion, trim, modes, signs, air, randomisation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sim2sky.environments.airframe_xml import AIRCRAFT_PATH, airframe_xml
from sim2sky.environments.airframes import AIRFRAMES, airframe, stall_alpha_rad, stall_drag
from sim2sky.environments.jsbsim_plant import Air, InitialState, JsbsimPlant, PlantParameters, find_trim
from sim2sky.errors import ConfigError, Sim2SkyError
from sim2sky.runtime.autopilot import Autopilot
from sim2sky.runtime.state import Command, Setpoint

NOMINAL = PlantParameters()
CALM = Air()
ULTRA, AERO = AIRFRAMES["ultrastick25e"], AIRFRAMES["aerosonde"]


def trimmed(a, airspeed=None, *, parameters=NOMINAL, air=CALM, seed=1, yaw=0.0, command=None):
    speed = airspeed or a.cruise_airspeed_mps
    trim, alpha = find_trim(a, speed)
    plant = JsbsimPlant(a, 120.0)
    plant.reset(InitialState(150.0, speed, 0.0, alpha, yaw, alpha), parameters, air, command or trim, seed)
    return plant, trim


@pytest.mark.parametrize("a", AIRFRAMES.values(), ids=lambda a: a.name)
def test_committed_xml_is_what_the_generator_writes(a):
    assert (AIRCRAFT_PATH / f"{a.name}.xml").read_text(encoding="utf-8") == airframe_xml(a)


@pytest.mark.parametrize(
    ("a", "throttle", "speed", "thrust"),
    [
        (ULTRA, 0.6, 0, 7.99),
        (ULTRA, 0.6, 16, 3.19),
        (ULTRA, 0.6, 20, 1.79),
        (ULTRA, 1.0, 0, 14.28),
        (ULTRA, 1.0, 16, 8.37),
        (ULTRA, 1.0, 20, 6.36),
        (AERO, 0.6, 0, 30.2),
        (AERO, 0.6, 20, 5.0),
        (AERO, 1.0, 0, 81.9),
        (AERO, 1.0, 20, 48.6),
    ],
)
def test_thrust_equals_the_published_check_values(a, throttle, speed, thrust):
    assert a.thrust_n(throttle, speed) == pytest.approx(thrust, abs=0.05)


@pytest.mark.parametrize(
    ("a", "speed", "alpha_deg", "elevator_deg", "throttle"),
    [(ULTRA, 18, 2.66, -4.14, 0.622), (ULTRA, 22, 1.34, -3.02, 0.880), (AERO, 25, 3.10, -7.79, 0.779)],
)
def test_trim_equals_the_published_trim(a, speed, alpha_deg, elevator_deg, throttle):
    command, alpha = find_trim(a, float(speed))
    assert math.degrees(alpha) == pytest.approx(alpha_deg, abs=0.02)
    assert -command.elevator * 25.0 == pytest.approx(elevator_deg, abs=0.02)
    assert command.throttle == pytest.approx(throttle, abs=0.002)


@pytest.mark.parametrize("a", AIRFRAMES.values(), ids=lambda a: a.name)
def test_shipped_trim_is_the_trim_found(a):
    command, alpha = find_trim(a, a.cruise_airspeed_mps)
    assert a.trim == pytest.approx(command, abs=1e-3)
    assert a.trim_alpha_rad == pytest.approx(alpha, abs=1e-3)


def test_no_trim_beyond_the_envelope():
    with pytest.raises(Sim2SkyError, match="no level trim at 60"):
        find_trim(ULTRA, 60.0)


def test_trimmed_flight_stays_trimmed():
    plant, _ = trimmed(ULTRA)
    plant.run(120 * 10)
    s = plant.sample(0)
    assert abs(s.altitude_m - 150.0) < 0.1
    assert abs(s.roll_rad) < 1e-3
    assert abs(s.climb_rate_mps) < 0.02


# Linear analysis ------------------------------------------------------------------------------------------------------


def numeric_jacobian(a, states, rates, step):
    """d(rates)/d(states) of the JSBSim model around trim, by central differences on its initial conditions."""
    plant, trim = trimmed(a)
    fdm = plant._fdm
    base = {name: fdm[name] for name in ("ic/u-fps", "ic/v-fps", "ic/w-fps", "ic/theta-rad", "ic/phi-rad")}
    base |= {"ic/p-rad_sec": 0.0, "ic/q-rad_sec": 0.0, "ic/r-rad_sec": 0.0}

    def derivative(changes):
        for name, value in {**base, **changes}.items():
            fdm[name] = value
        # theta and phi move the velocity with them unless it is set again in body axes
        for name in ("ic/u-fps", "ic/v-fps", "ic/w-fps"):
            fdm[name] = changes.get(name, base[name])
        assert fdm.run_ic()
        plant._settle(trim, NOMINAL)
        return np.array([fdm[name] for name in rates])

    columns = []
    for name in states:
        h = step[name]
        columns.append((derivative({name: base[name] + h}) - derivative({name: base[name] - h})) / (2 * h))
    return np.array(columns).T


def analytic(a):
    """Longitudinal and lateral system matrices from the coefficient tables (Etkin & Reid, small disturbances)."""
    c, m, g, rho = a.coefficients, a.mass_kg, 9.80665, 1.2073  # density at 150 m
    trim, alpha = find_trim(a, a.cruise_airspeed_mps)
    V, S, b, cbar = a.cruise_airspeed_mps, a.wing_area_m2, a.wing_span_m, a.chord_m
    u0, w0 = V * math.cos(alpha), V * math.sin(alpha)
    de = -trim.elevator * a.surface_limit_rad
    induced = 1.0 / (math.pi * a.oswald * b * b / S)

    def longitudinal(x):
        u, w, q, theta = x
        speed, al = math.hypot(u, w), math.atan2(w, u)
        qbar = 0.5 * rho * speed**2
        CL = c["CL0"] + c["CLa"] * al + c["CLq"] * cbar / (2 * speed) * q + c["CLde"] * de
        CD = c["CD0"] + induced * (CL - c["CLm"]) ** 2 + c["CDde"] * abs(de)
        X = qbar * S * (CL * math.sin(al) - CD * math.cos(al)) + a.thrust_n(trim.throttle, u)
        Z = qbar * S * (-CL * math.cos(al) - CD * math.sin(al))
        Cm = c["Cm0"] + c["Cma"] * al + c["Cmq"] * cbar / (2 * speed) * q + c["Cmde"] * de
        return np.array(
            [
                X / m - g * math.sin(theta) - q * w,
                Z / m + g * math.cos(theta) + q * u,
                qbar * S * cbar * Cm / a.iyy_kgm2,
                q,
            ]
        )

    inertia = np.array([[a.ixx_kgm2, -a.ixz_kgm2], [-a.ixz_kgm2, a.izz_kgm2]])

    def lateral(x):
        v, p, r, phi = x
        speed = math.sqrt(u0**2 + v**2 + w0**2)
        beta = math.asin(v / speed)
        qbar, k = 0.5 * rho * speed**2, b / (2 * speed)
        Y = qbar * S * (c["CYb"] * beta + c["CYp"] * k * p + c["CYr"] * k * r)
        L = qbar * S * b * (c["Clb"] * beta + c["Clp"] * k * p + c["Clr"] * k * r)
        N = qbar * S * b * (c["Cnb"] * beta + c["Cnp"] * k * p + c["Cnr"] * k * r)
        pdot, rdot = np.linalg.solve(inertia, [L, N])
        return np.array(
            [Y / m + g * math.cos(alpha) * math.sin(phi) + p * w0 - r * u0, pdot, rdot, p + r * math.tan(alpha)]
        )

    def jacobian(f, x0):
        h = 1e-5
        return np.array([(f(x0 + h * e) - f(x0 - h * e)) / (2 * h) for e in np.eye(4)]).T

    return jacobian(longitudinal, np.array([u0, w0, 0.0, alpha])), jacobian(lateral, np.zeros(4))


FT = 0.3048


def modes(matrix):
    values = np.linalg.eigvals(matrix)
    return sorted(values, key=abs, reverse=True)


def frequency_damping(value):
    return abs(value), -value.real / abs(value)


@pytest.mark.parametrize(
    ("a", "short_period", "phugoid", "dutch_roll", "roll"),
    [
        (ULTRA, (15.8, 0.78), (0.54, 0.31), (5.8, 0.33), 16.9),
        (AERO, (10.7, 0.44), (0.50, 0.29), (6.0, 0.25), 20.9),
    ],
    ids=["ultrastick25e", "aerosonde"],
)
def test_modes_equal_the_linear_analysis_and_the_published_figures(a, short_period, phugoid, dutch_roll, roll):
    step = {
        "ic/u-fps": 0.1, "ic/v-fps": 0.1, "ic/w-fps": 0.1,
        "ic/p-rad_sec": 0.01, "ic/q-rad_sec": 0.01, "ic/r-rad_sec": 0.01,
        "ic/theta-rad": 0.005, "ic/phi-rad": 0.005,
    }  # fmt: skip
    A_lon, A_lat = analytic(a)
    J_lon = numeric_jacobian(
        a,
        ["ic/u-fps", "ic/w-fps", "ic/q-rad_sec", "ic/theta-rad"],
        ["accelerations/udot-ft_sec2", "accelerations/wdot-ft_sec2", "accelerations/qdot-rad_sec2"],
        step,
    )
    J_lon = np.vstack([J_lon, [0, 0, 1, 0]])
    J_lat = numeric_jacobian(
        a,
        ["ic/v-fps", "ic/p-rad_sec", "ic/r-rad_sec", "ic/phi-rad"],
        ["accelerations/vdot-ft_sec2", "accelerations/pdot-rad_sec2", "accelerations/rdot-rad_sec2"],
        step,
    )
    J_lat = np.vstack([J_lat, [0, 1, math.tan(a.trim_alpha_rad), 0]])

    for measured, expected in zip(modes(J_lon), modes(A_lon), strict=True):
        assert abs(measured - expected) <= 0.04 * abs(expected) + 0.02
    for measured, expected in zip(modes(J_lat), modes(A_lat), strict=True):
        assert abs(measured - expected) <= 0.04 * abs(expected) + 0.02

    sp, ph = frequency_damping(modes(J_lon)[0]), frequency_damping(modes(J_lon)[-1])
    assert sp == pytest.approx(short_period, rel=0.04)
    assert ph == pytest.approx(phugoid, rel=0.08)
    rolling = next(v for v in modes(J_lat) if abs(v.imag) < 1e-6 and abs(v) > 3)
    oscillation = next(v for v in modes(J_lat) if v.imag > 0.5)
    assert -rolling.real == pytest.approx(roll, rel=0.04)
    assert frequency_damping(oscillation) == pytest.approx(dutch_roll, rel=0.06)


def test_phugoid_in_flight_has_the_period_of_the_linear_analysis():
    """Free response over 60 s: the zero crossings of the climb rate give the period."""
    a = ULTRA
    A_lon, _ = analytic(a)
    mode = modes(A_lon)[-1]
    trim, alpha = find_trim(a, 18.0)
    plant = JsbsimPlant(a, 120.0)
    plant.reset(InitialState(150.0, 19.0, 0.0, alpha, 0.0, alpha), NOMINAL, CALM, trim, 1)
    climb = []
    for _ in range(30 * 20):
        plant.run(6)
        climb.append(plant.sample(0).climb_rate_mps)
    climb = np.array(climb[20:])
    crossings = np.nonzero(np.diff(np.sign(climb - climb[-100:].mean())))[0] / 20.0
    assert crossings[1] - crossings[0] == pytest.approx(math.pi / abs(mode.imag), rel=0.15)


# Signs and actuators --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", AIRFRAMES.values(), ids=lambda a: a.name)
@pytest.mark.parametrize(
    ("channel", "quantity"),
    [("aileron", "p_radps"), ("elevator", "q_radps"), ("rudder", "r_radps"), ("throttle", "airspeed_mps")],
)
def test_positive_command_moves_the_aircraft_the_way_the_contract_says(a, channel, quantity):
    plant, trim = trimmed(a)
    reference = getattr(plant.sample(0), quantity)
    plant.command(trim._replace(**{channel: getattr(trim, channel) + 0.2}))
    plant.run(24 if channel != "throttle" else 120)
    assert getattr(plant.sample(0), quantity) > reference + 0.05


def test_actuator_lag_rate_and_travel():
    plant, _ = trimmed(ULTRA, command=Command(0.0, 0.0, 0.0, 0.6))
    plant.command(Command(1.0, 0.0, 0.0, 0.6))
    positions = []
    for _ in range(60):
        plant.run(1)
        positions.append(plant.get("fcs/aileron-pos-rad"))
    rate = np.diff(positions) * 120.0
    assert max(rate) == pytest.approx(math.radians(150.0), rel=0.02)  # the published rate limit, reached
    assert positions[-1] == pytest.approx(math.radians(25.0), rel=1e-3)  # and the published travel
    plant.command(Command(3.0, 0.0, 0.0, 0.6))
    plant.run(60)
    assert plant.get("fcs/aileron-pos-rad") <= math.radians(25.0) + 1e-9

    # A small step stays below the rate limit and shows the lag: 63 % after one time constant of 19.9 ms.
    plant, _ = trimmed(ULTRA, command=Command(0.0, 0.0, 0.0, 0.6))
    plant.command(Command(0.05, 0.0, 0.0, 0.6))
    response = []
    for _ in range(12):
        plant.run(1)
        response.append(plant.get("fcs/aileron-pos-rad") / (0.05 * math.radians(25.0)))
    times = (np.arange(12) + 0.5) / 120.0  # Tustin sees the step half a frame early
    assert np.allclose(response[1:], 1 - np.exp(-times[1:] / 0.0199), atol=0.04)


# Air and parameters ---------------------------------------------------------------------------------------------------


def test_wind_carries_the_aircraft_and_leaves_the_airspeed():
    plant, _ = trimmed(ULTRA, air=Air(3.0, -2.0, 0.0), yaw=1.0)
    assert plant.get("velocities/vt-fps") * FT == pytest.approx(18.0, abs=1e-6)
    plant.run(120 * 20)
    s = plant.sample(0)
    assert s.north_m == pytest.approx((18 * math.cos(1.0) + 3) * 20, abs=1.5)
    assert s.east_m == pytest.approx((18 * math.sin(1.0) - 2) * 20, abs=1.5)


def test_turbulence_has_the_dryden_intensity_and_depends_on_the_seed_only():
    """MIL-F-8785C below 1000 ft: sigma_w = 0.1 W20, sigma_u = sigma_w / (0.177 + 0.000823 h)^0.4."""

    def gusts(seed, seconds=120):
        plant, _ = trimmed(AERO, air=Air(0, 0, 9.0), seed=seed)
        pilot = Autopilot(AERO.gains, 0.05)  # keeps the aircraft at the height the formula is for
        rows = []
        for _ in range(seconds * 20):
            plant.command(pilot.command(plant.sample(0), Setpoint(150.0, 25.0, 0.0)))
            plant.run(6)
            rows.append([plant.get(f"atmosphere/turb-{axis}-fps") * FT for axis in ("north", "east", "down")])
        return np.array(rows)

    sigma_w = 0.1 * 9.0
    runs = np.concatenate([gusts(seed) for seed in (1, 2, 3)])
    assert runs[:, 2].std() == pytest.approx(sigma_w, rel=0.25)
    sigma_u = sigma_w / (0.177 + 0.000823 * 150 / FT) ** 0.4
    assert np.sqrt((runs[:, 0].std() ** 2 + runs[:, 1].std() ** 2) / 2) == pytest.approx(sigma_u, rel=0.3)
    np.testing.assert_array_equal(gusts(5, 3), gusts(5, 3))
    assert not np.array_equal(gusts(5, 3), gusts(6, 3))


def test_mass_cg_and_inertia_change_as_asked():
    parameters = PlantParameters(mass_offset_kg=0.4, inertia_scale=1.3)
    plant, _ = trimmed(ULTRA, parameters=parameters)
    assert plant.get("inertia/mass-slugs") * 14.5939029 == pytest.approx(1.959 + 0.4, rel=1e-6)
    for axis, value in (("xx", 0.07151), ("yy", 0.08636), ("zz", 0.15364)):
        assert plant.get(f"inertia/i{axis}-slugs_ft2") * 1.35581795 == pytest.approx(1.3 * value, rel=1e-3)
    plant, _ = trimmed(ULTRA, parameters=PlantParameters(cg_offset_m=0.02))
    assert plant.get("inertia/cg-x-in") * 0.0254 == pytest.approx(-0.02, rel=1e-5)  # structural x points aft
    assert plant.get("inertia/mass-slugs") * 14.5939029 == pytest.approx(1.959, rel=1e-6)


def test_lighter_aircraft_is_possible():
    plant, _ = trimmed(ULTRA, parameters=PlantParameters(mass_offset_kg=-0.1))
    assert plant.get("inertia/mass-slugs") * 14.5939029 == pytest.approx(1.859, rel=1e-6)


@pytest.mark.parametrize("name", [name for name, value in ULTRA.coefficients.items() if value != 0.0])
def test_each_coefficient_is_live(name):
    """Scaling any coefficient changes the flight; one that does not would be a dead randomisation."""
    commands = Command(0.2, 0.3, 0.2, 0.7)

    def fly(parameters):
        plant = JsbsimPlant(ULTRA, 120.0)
        plant.reset(InitialState(150, 18, 0.2, 0.1, 0.0, 0.05), parameters, CALM, commands, 1)
        plant.run(120)
        return np.array(plant.state_row())

    assert not np.array_equal(fly(NOMINAL), fly(PlantParameters(coefficient_scale={name: 1.2})))


@pytest.mark.parametrize(
    "change",
    [{"thrust_scale": 0.8}, {"actuator_bandwidth_scale": 0.5}, {"actuator_rate_scale": 0.2}, {"elevator_offset": 0.05}],
)
def test_each_other_parameter_is_live(change):
    def fly(parameters):
        plant, trim = trimmed(ULTRA, parameters=parameters)
        plant.command(trim._replace(aileron=1.0))
        plant.run(60)
        return np.array(plant.state_row())

    assert not np.array_equal(fly(NOMINAL), fly(replace(NOMINAL, **change)))


def test_unknown_names_are_refused_not_created():
    plant, _ = trimmed(ULTRA)
    with pytest.raises(Sim2SkyError, match="no property 'velocities/typo'"):
        plant.get("velocities/typo")
    with pytest.raises(Sim2SkyError, match="no coefficient 'CXx'"):
        trimmed(ULTRA, parameters=PlantParameters(coefficient_scale={"CXx": 1.0}))
    with pytest.raises(ConfigError, match="known aircraft: ultrastick25e, aerosonde"):
        airframe("x8")


def test_stall_tables():
    assert stall_alpha_rad(0.1) == pytest.approx(0.1)
    assert stall_alpha_rad(-math.radians(18)) == pytest.approx(-math.radians(14.55))
    assert stall_alpha_rad(math.radians(90)) == pytest.approx(0.0, abs=1e-12)
    assert stall_drag(0.2) == 0.0
    assert stall_drag(math.radians(45)) == pytest.approx(1.8 * (0.5 - math.sin(math.radians(15)) ** 2))


def test_the_aircraft_stalls():
    """Full up elevator without power: the speed falls, lift breaks, the aircraft sinks fast."""
    plant, _ = trimmed(ULTRA, command=Command(0, 0.3, 0, 0.0))
    plant.command(Command(0, 1.0, 0, 0.0))
    alpha = sink = 0.0
    for _ in range(40):
        plant.run(12)
        alpha, sink = max(alpha, plant.get("aero/alpha-rad")), min(sink, plant.sample(0).climb_rate_mps)
    assert alpha > math.radians(15)
    assert sink < -4.0


def flown_rates(parameters: PlantParameters, change: Command) -> tuple[float, float, float]:
    """Body rates half a second after a change of the commands, from trim."""
    trim, alpha = find_trim(ULTRA, ULTRA.cruise_airspeed_mps)
    plant = JsbsimPlant(ULTRA, 120.0)
    plant.reset(InitialState(150.0, 18.0, pitch_rad=alpha, alpha_rad=alpha), parameters, CALM, trim, 0)
    plant.command(Command(*(t + c for t, c in zip(trim, change, strict=True))))
    plant.run(60)
    sample = plant.sample(0)
    return sample.p_radps, sample.q_radps, sample.r_radps


def test_a_surface_that_moves_the_wrong_way_too_little_or_off_centre_does_so():
    still, right, yawing = Command(0.0, 0.0, 0.0, 0.0), Command(0.2, 0.0, 0.0, 0.0), Command(0.0, 0.0, 0.2, 0.0)
    p, _, r = flown_rates(NOMINAL, right)
    assert flown_rates(PlantParameters(command_scale={"aileron": -1.0}), right)[0] == pytest.approx(-p, rel=0.1)
    assert flown_rates(PlantParameters(command_scale={"aileron": 0.5}), right)[0] == pytest.approx(0.5 * p, rel=0.1)
    # An offset settles the actuator there before the flight, so the aircraft rolls from the start.
    assert flown_rates(PlantParameters(command_offset={"aileron": 0.2}), still)[0] > 0.8 * p
    rigged = flown_rates(PlantParameters(command_offset={"elevator": 0.1}), right)
    assert rigged == pytest.approx(flown_rates(PlantParameters(elevator_offset=0.1), right), abs=1e-9)
    swapped = PlantParameters(command_swap=("aileron", "rudder"))
    assert flown_rates(swapped, right) == pytest.approx(flown_rates(NOMINAL, yawing), abs=1e-9)
    assert flown_rates(swapped, right)[2] != pytest.approx(r, rel=0.1)


def test_there_are_three_surfaces():
    with pytest.raises(ConfigError, match="no surface 'flaps'"):
        PlantParameters(command_scale={"flaps": 1.0}).surface_map()
